package runtime

import (
	"fmt"
	"io"
	"time"

	"github.com/zap-migrate/zap/runtime/boot"
)

// Trace collects where the time of a Create or Run goes. A nil one collects nothing.
type Trace struct {
	last  time.Time
	steps []boot.Timing
	child []boot.Timing
}

// NewTrace begins a trace; the first step that is marked has taken the time since began.
func NewTrace(began time.Time) *Trace { return &Trace{last: began} }

// Mark ends a step of this process's.
func (t *Trace) Mark(step string) {
	if t == nil {
		return
	}
	now := time.Now()
	t.steps = append(t.steps, boot.Timing{Text: step, Took: now.Sub(t.last)})
	t.last = now
}

// Write prints the steps of this process and then those of the container's first one up to its execve, with the microseconds that each took.
func (t *Trace) Write(w io.Writer) error {
	for _, part := range []struct {
		title string
		steps []boot.Timing
	}{{"zap", t.steps}, {"the container's first process, beside that", t.child}} {
		total := time.Duration(0)
		for _, s := range part.steps {
			total += s.Took
		}
		if _, err := fmt.Fprintf(w, "%7.0f us  %s\n", float64(total.Nanoseconds())/1000, part.title); err != nil {
			return err
		}
		origin := ""
		for _, s := range part.steps {
			text := s.Text
			if s.Origin != origin && s.Origin != "" {
				text += "  # " + s.Origin
			}
			origin = s.Origin
			if _, err := fmt.Fprintf(w, "%9.1f  %s\n", float64(s.Took.Nanoseconds())/1000, text); err != nil {
				return err
			}
		}
	}
	return nil
}
