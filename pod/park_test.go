package pod

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// memoryJournal keeps an arrival's phases.
type memoryJournal struct {
	phases []string
	err    error
}

func (j *memoryJournal) Append(phase string) error {
	if j.err == nil {
		j.phases = append(j.phases, phase)
	}
	return j.err
}

func (j *memoryJournal) Remove() error { return nil }

// arrivingPod is a supervisor whose pod is in a phase, with serve's end of its connection. What CRIU would do is not there.
func arrivingPod(t *testing.T, phase string) (s *Supervisor, serve net.Conn, called context.Context, words chan ArrivalWord) {
	t.Helper()
	near, far := net.Pipe()
	called, cancel := context.WithCancelCause(context.Background())
	words = make(chan ArrivalWord)
	s = &Supervisor{log: slog.New(slog.DiscardHandler), stream: newStreams(newLog("")), ended: make(chan struct{}), pid: 1}
	s.arrival = &arrival{
		job: &ArrivalJob{Migration: "m"}, journal: &memoryJournal{}, conn: &ArrivalConn{Conn: near, Lines: bufio.NewReader(near)}, cancel: cancel, phase: phase,
		verdict: make(chan bool, 1), finished: make(chan struct{}), timings: map[string]int64{},
	}
	over := make(chan struct{})
	go func() { defer close(over); s.listen(called, words) }()
	t.Cleanup(func() { near.Close(); far.Close(); cancel(nil); <-over })
	return s, far, called, words
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text + "\n")); err != nil {
		t.Fatal(err)
	}
}

// verdictOf waits for what is decided: commit, abort, or the reason why the move was called off.
func verdictOf(t *testing.T, s *Supervisor, called context.Context) string {
	t.Helper()
	select {
	case commit := <-s.arrival.verdict:
		if commit {
			return "commit"
		}
		return "abort"
	case <-called.Done():
		return context.Cause(called).Error()
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is decided")
		return ""
	}
}

// TestVerdict tries everything that can decide about a pod, in every phase.
func TestVerdict(t *testing.T) {
	closed := "close"
	for _, tt := range []struct{ phase, word, want string }{
		{phaseAccepted, `{"word":"commit"}`, "zap serve said commit out of turn"},
		{phaseAccepted, `{"word":"abort"}`, errCalledOff.Error()},
		{phaseAccepted, closed, "zap serve went away"},
		{phaseAccepted, "no document", "zap serve went away"},
		{phasePrepared, `{"word":"commit"}`, "commit"},
		{phasePrepared, `{"word":"abort"}`, "abort"},
		{phasePrepared, closed, ""},
		{phasePrepared, "no document", ""},
		{phaseRunning, closed, ""},
	} {
		s, serve, called, _ := arrivingPod(t, tt.phase)
		if tt.word == closed {
			serve.Close()
		} else {
			say(t, serve, tt.word)
		}
		if tt.want != "" {
			if got := verdictOf(t, s, called); got != tt.want {
				t.Errorf("%s in %s: %q, want %q", tt.word, tt.phase, got, tt.want)
			}
			continue
		}
		// Nothing is decided: a verdict that comes by another way still counts.
		select {
		case <-s.arrival.verdict:
			t.Errorf("%s in %s: a verdict", tt.word, tt.phase)
		case <-called.Done():
			t.Errorf("%s in %s: %v", tt.word, tt.phase, context.Cause(called))
		case <-time.After(20 * time.Millisecond):
		}
		if got := s.arrival.decide(true); got != (tt.phase == phasePrepared) {
			t.Errorf("%s in %s: a verdict afterwards is taken: %v", tt.word, tt.phase, got)
		}
	}
}

func TestFirstVerdictStays(t *testing.T) {
	s, serve, called, _ := arrivingPod(t, phasePrepared)
	if !s.arrival.decide(false) {
		t.Error("the first is refused")
	}
	say(t, serve, `{"word":"commit"}`)
	say(t, serve, `{"word":"abort"}`)
	if got := verdictOf(t, s, called); got != "abort" {
		t.Errorf("the verdict is %s", got)
	}
	select {
	case <-s.arrival.verdict:
		t.Error("a second verdict")
	case <-called.Done():
		t.Error(context.Cause(called))
	case <-time.After(20 * time.Millisecond):
	}
}

// TestConfirm wants only a pod that is prepared, and about which nothing is decided, to say that it is.
func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		phase   string
		decided bool
		want    bool
	}{{phaseAccepted, false, false}, {phasePrepared, false, true}, {phasePrepared, true, false}, {phaseRunning, true, false}} {
		s, serve, _, _ := arrivingPod(t, tt.phase)
		s.arrival.decided = tt.decided
		say(t, serve, `{"word":"confirm"}`)
		if !tt.want {
			if err := serve.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		var w ArrivalWord
		err := json.NewDecoder(serve).Decode(&w)
		if (err == nil && w.Word == ArrivalConfirmed) != tt.want {
			t.Errorf("in %s, decided: %v: %+v, %v", tt.phase, tt.decided, w, err)
		}
	}
}

func TestWords(t *testing.T) {
	_, serve, _, words := arrivingPod(t, phaseAccepted)
	say(t, serve, `{"word":"announce"}`)
	if w := <-words; w.Word != ArrivalAnnounce {
		t.Errorf("%+v", w)
	}
	say(t, serve, `{"word":"restore","queues":[{"name":"q","max_count":1,"max_size":1}]}`)
	if w := <-words; w.Word != ArrivalRestore || len(w.Queues) != 1 || w.Queues[0].Name != "q" {
		t.Errorf("%+v", w)
	}
}

// TestArrivalRequests asks about a move over the control socket, in every phase.
func TestArrivalRequests(t *testing.T) {
	finish := func(s *Supervisor, failure error) {
		s.arrival.failure = failure
		close(s.arrival.finished)
	}
	s, _, called, _ := arrivingPod(t, phaseAccepted)
	if a := s.doArrival(Request{Op: OpArrival, Migration: "m"}); a.Phase != phaseAccepted || a.Error != "" {
		t.Errorf("what is it: %+v", a)
	}
	for _, op := range []string{OpArrival, OpCommit, OpAbort} {
		for _, other := range []string{"", "another"} {
			if a := s.doArrival(Request{Op: op, Migration: other}); a.Phase != phaseDiscarded || a.Error != "" {
				t.Errorf("%s of move %q: %+v", op, other, a)
			}
		}
	}
	if a := s.doArrival(Request{Op: OpCommit, Migration: "m"}); a.Error == "" {
		t.Errorf("commit before it is prepared: %+v", a)
	}
	if a := s.status(); a.Status != StatusArriving {
		t.Errorf("status %+v", a)
	}
	go func() { <-called.Done(); finish(s, context.Cause(called)) }()
	if a := s.doArrival(Request{Op: OpAbort, Migration: "m"}); a.Error != "" {
		t.Errorf("abort before it is prepared: %+v", a)
	}

	s, _, _, _ = arrivingPod(t, phasePrepared)
	go func() { <-s.arrival.verdict; finish(s, nil) }()
	if a := s.doArrival(Request{Op: OpCommit, Migration: "m"}); a.Error != "" {
		t.Errorf("commit: %+v", a)
	}
	if a := s.doArrival(Request{Op: OpCommit, Migration: "m"}); a.Error != "" {
		t.Errorf("commit again: %+v", a)
	}
	if a := s.doArrival(Request{Op: OpAbort, Migration: "m"}); a.Error == "" {
		t.Errorf("abort what runs: %+v", a)
	}
	if a := s.status(); a.Status != StatusRunning {
		t.Errorf("status %+v", a)
	}

	s, _, _, _ = arrivingPod(t, phasePrepared)
	go func() { <-s.arrival.verdict; finish(s, errCalledOff) }()
	if a := s.doArrival(Request{Op: OpAbort, Migration: "m"}); a.Error != "" {
		t.Errorf("abort: %+v", a)
	}
	if a := s.doArrival(Request{Op: OpCommit, Migration: "m"}); a.Error != errCalledOff.Error() {
		t.Errorf("commit what was aborted: %+v", a)
	}
}

func TestEnter(t *testing.T) {
	j := &memoryJournal{}
	a := &arrival{journal: j, phase: phaseAccepted}
	called, cancel := context.WithCancelCause(context.Background())
	if err := a.enter(called, phasePrepared); err != nil || a.phase != phasePrepared {
		t.Errorf("%v, in %s", err, a.phase)
	}
	j.err = errors.New("disk full")
	if err := a.enter(called, phaseRunning); !errors.Is(err, j.err) || a.phase != phasePrepared {
		t.Errorf("without room: %v, in %s", err, a.phase)
	}
	j.err = nil
	cancel(errCalledOff)
	if err := a.enter(called, phaseRunning); !errors.Is(err, errCalledOff) || !slices.Equal(j.phases, []string{phasePrepared}) {
		t.Errorf("after it was called off: %v, %v", err, j.phases)
	}
}

// TestArrivalJob wants a job to come over the connection as it was, in one line.
func TestArrivalJob(t *testing.T) {
	job := ArrivalJob{ID: "web", Migration: "m", Record: Record{UID: "u", Streams: [3]string{"pipe:[1]"}, Volumes: []Volume{{Source: "/a\nb", Target: "/c"}}}}
	data, err := json.Marshal(&job)
	if err != nil || strings.Contains(string(data), "\n") {
		t.Fatalf("%s, %v", data, err)
	}
	var got ArrivalJob
	if err := json.Unmarshal(data, &got); err != nil || got.Record.Volumes[0] != job.Record.Volumes[0] || got.Record.Streams != job.Record.Streams {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAnonymousMemory(t *testing.T) {
	own, err := anonymousMemory(1)
	if err != nil || own < 0 || own > 1<<40 {
		t.Errorf("of process 1: %d, %v", own, err)
	}
	if _, err := anonymousMemory(1 << 30); err == nil {
		t.Error("of nobody: no error")
	}
}
