package main

import (
	"errors"
	"os"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/runtime"
)

// podMove is the move that a pod is in.
type podMove struct {
	migrate.Header
	phase  migrate.Phase
	status string // moving or arriving
}

// moveOf says in which move the pod in dir is; nil if in none.
func moveOf(dir string) (*podMove, error) {
	j, err := migrate.OpenJournal(dir)
	if errors.Is(err, migrate.ErrNoJournal) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer j.Close()
	m := &podMove{Header: j.Header, phase: j.Phase(), status: pod.StatusMoving}
	if j.Side == "target" {
		if m.status = pod.StatusArriving; m.phase == migrate.Running {
			return nil, nil // it has arrived, and only this is not put away
		}
	}
	return m, nil
}

// arrivingPods lists the pods that are on their way in: they have a journal but
// no state yet.
func arrivingPods(rt *runtime.Runtime) ([]podView, error) {
	entries, err := os.ReadDir(rt.Root())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var views []podView
	for _, e := range entries {
		if !e.IsDir() || pod.CheckID(e.Name()) != nil {
			continue
		}
		m, err := moveOf(rt.Dir(e.Name()))
		if err != nil || m == nil || m.status != pod.StatusArriving {
			continue
		}
		if _, err := rt.Load(e.Name()); err == nil {
			continue // it is listed as what it is
		}
		views = append(views, podView{
			Name: e.Name(), Status: m.status, Created: m.Started, Addresses: []string{}, Command: []string{}, From: m.Peer,
		})
	}
	return views, nil
}
