package pages

import (
	"context"
	"errors"
)

// look is what one visit finds of a process.
type look struct {
	Process
	known *shadowImage
	fresh bool   // the target does not know of it
	spans []span // to be looked at
	runs  []span // pages to be read
	clean int64
}

// held looks where the memory of all processes is. Those that are tracked stand still meanwhile, and what they write to from then on is
// found by the next visit.
func (r *Rounds) held(ctx context.Context, first bool) (all []*look, err error) {
	if r.Tracked {
		release, stopped := r.Hold(ctx)
		if stopped != nil {
			return nil, stopped
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	processes, err := r.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		l, err := r.look(p, first)
		if err != nil {
			return nil, err
		}
		if l != nil {
			all = append(all, l)
		}
	}
	if !r.Tracked {
		return all, nil
	}
	// Only now: two of them may share their memory.
	for _, l := range all {
		if err := forget(l.PID); err != nil && !gone(err) {
			return nil, err
		}
	}
	return all, nil
}

// look finds the pages of one process; nil if there is nothing to do. That it ends meanwhile is no error.
func (r *Rounds) look(p Process, first bool) (*look, error) {
	m, err := openMemory(p.PID, r.chunk)
	if err != nil {
		return nil, nil
	}
	defer m.close()
	l := &look{Process: p, known: r.shadow.images[ofProcess(p.Image)], spans: r.planned[p.Image]}
	switch {
	case l.known == nil:
		if r.sampling || !r.meet(l, m) {
			return nil, nil
		}
		first = true
	case r.Tracked && (l.known.process.pid != p.PID || !l.known.process.same()):
		return nil, nil // another one has its id now: the dump sends all of it
	}
	keep := func(uint64, uint64) bool { return true }
	if r.Tracked {
		keep = func(address, entry uint64) bool {
			if first { // as if all of it had been written to
				entry |= pagemapSoftDirty
			}
			return l.known.differs(address, entry)
		}
	}
	for _, s := range l.spans {
		if err := m.private(s, keep, func(run span) error { l.runs = append(l.runs, run); return nil }); err != nil {
			if l.fresh {
				l.known.process.close()
			}
			return nil, err
		}
	}
	l.clean = m.clean
	if l.fresh {
		r.planned[p.Image], r.shadow.images[ofProcess(p.Image)] = l.spans, l.known
	}
	return l, nil
}

// meet finds what there is of a process that the target does not know of, and says whether there is anything.
func (r *Rounds) meet(l *look, m *memory) bool {
	spans, err := m.spans()
	if err != nil {
		return false
	}
	if l.spans = r.afford(spans); len(l.spans) == 0 {
		return false
	}
	l.fresh = true
	l.known = &shadowImage{seed: r.shadow.seed, chunks: map[uint64]*[chunkPages]uint64{}}
	if r.Tracked {
		l.known.process = track(l.PID)
		return l.known.process != nil
	}
	return true
}

// afford leaves out the mappings that are too many or too large.
func (r *Rounds) afford(all []span) []span {
	var some []span
	for _, s := range all {
		if len(some) == maxSpans || r.reserved+s.pages() > maxReserved {
			continue
		}
		r.reserved += s.pages()
		some = append(some, s)
	}
	return some
}
