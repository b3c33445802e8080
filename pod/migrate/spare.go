package migrate

import (
	"os"
	"time"

	"github.com/zap-migrate/zap/pod"
)

// spareFor is how long a supervisor waits for a job. A peer whose connection has come has said by then what it wants.
const spareFor = firstWithin

// warm has a supervisor come up, unless one waits already, or what has just connected is another connection of a move that has begun. Its start is not
// in the way of a pod then: the source looks at the pod meanwhile.
func (t *Target) warm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spare != nil || len(t.moves) > 0 {
		return
	}
	s, err := startSupervisor(t.Flags)
	if err != nil {
		t.Log.Debug("start a supervisor ahead", "error", err.Error())
		return // whoever needs one says what is wrong
	}
	t.spare = s
	go func() {
		select {
		case <-time.After(spareFor):
		case <-s.exited:
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.spare == s {
			t.spare = nil
			s.leave()
		}
	}()
}

// takeSpare returns the supervisor that waits, which may have died meanwhile; nil if there is none.
func (t *Target) takeSpare() *supervisor {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.spare
	t.spare = nil
	return s
}

// employ gives a supervisor its job: the one that waits, or a new one. See supervisor.begin.
func (t *Target) employ(job *pod.ArrivalJob, images *os.File, trees []*os.File, failed chan pod.ArrivalWord) (*supervisor, error) {
	if s := t.takeSpare(); s != nil && s.begin(job, images, trees, failed) == nil {
		return s, nil
	}
	s, err := startSupervisor(t.Flags)
	if err == nil {
		err = s.begin(job, images, trees, failed)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}
