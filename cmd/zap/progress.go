package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/zap-migrate/zap/pod/migrate"
)

// progress shows a move: events as JSON lines, or phases and a line that is
// rewritten on a terminal.
type progress struct {
	json     bool
	terminal bool
	pod      string // in every line; empty where there is but one pod
	out, err io.Writer

	mu    sync.Mutex
	open  bool // the rewritten line is on the screen
	began time.Time
}

func newProgress(format string, out, errs *os.File) *progress {
	return &progress{
		json: format == "json", terminal: format == "text" && term.IsTerminal(int(errs.Fd())), out: out, err: errs, began: time.Now(),
	}
}

// event shows one event.
func (s *progress) event(e migrate.Event) {
	if s.json {
		_ = s.encode(struct {
			Pod string `json:"pod,omitempty"`
			migrate.Event
		}{s.pod, e})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Event == "retry":
		s.clear()
		fmt.Fprintf(s.err, "%s  the peer does not answer, asking again: %s\n", s.head(), e.Detail)
	case e.Event == "again":
		s.clear()
		fmt.Fprintf(s.err, "%s  trying again: %s\n", s.head(), e.Detail)
	case !s.terminal:
	case e.Event == "round":
		s.clear()
		fmt.Fprintf(s.err, "%s  memory ahead: looked at %s, sent %s in %s\n", s.head(), size(e.Total), size(e.Bytes), e.Detail)
	case e.Event == "phase":
		s.clear()
		fmt.Fprintf(s.err, "%s  %s: %s\n", s.head(), e.Side, e.Phase)
	case e.Event == "progress":
		s.clear()
		fmt.Fprintf(s.err, "%s  %s: %s", s.head(), e.What, size(e.Bytes))
		if e.Total > 0 {
			fmt.Fprintf(s.err, " of %s", size(e.Total))
		}
		if e.Rate > 0 {
			fmt.Fprintf(s.err, ", %s/s", size(e.Rate))
			if left := e.Total - e.Bytes; left > 0 {
				fmt.Fprintf(s.err, ", %v left", (time.Duration(float64(left)/float64(e.Rate)*1000) * time.Millisecond).Round(100*time.Millisecond))
			}
		}
		s.open = true
	}
}

// head is what a line begins with: the time since the move began, and whose it is.
func (s *progress) head() string {
	head := fmt.Sprintf("%8.3fs", time.Since(s.began).Seconds())
	if s.pod != "" {
		head += "  " + s.pod
	}
	return head
}

// clear takes the rewritten line off the screen.
func (s *progress) clear() {
	if s.open {
		fmt.Fprint(s.err, "\r\x1b[K")
		s.open = false
	}
}

// end leaves the screen in order.
func (s *progress) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}
