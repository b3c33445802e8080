package migrate

import (
	"os"

	"github.com/zap-migrate/zap/pod"
)

// warm has a supervisor come up for what has just connected, unless one waits already, or this is another connection of a move that has begun. Its start is
// not in the way of a pod then: the source looks at the pod meanwhile. When the connection is over, cool ends the supervisor if nobody took it.
func (t *Target) warm() (cool func()) {
	started := make(chan *supervisor, 1)
	go func() { started <- t.startSpare() }()
	return func() {
		if s := <-started; s != nil {
			t.drop(s)
		}
	}
}

// startSpare starts the supervisor that waits; nil if there is one, or none is wanted.
func (t *Target) startSpare() *supervisor {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spare != nil || len(t.moves) > 0 {
		return nil
	}
	s, err := startSupervisor(t.Flags)
	if err != nil {
		t.Log.Debug("start a supervisor ahead", "error", err.Error())
		return nil // whoever needs one says what is wrong
	}
	t.spare = s
	return s
}

// drop ends a supervisor that still waits.
func (t *Target) drop(s *supervisor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spare == s {
		t.spare = nil
		s.leave()
	}
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
