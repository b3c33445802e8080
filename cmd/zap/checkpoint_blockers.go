package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/pod/preflight"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// certainBlockers are the codes of what CRIU refuses whatever the flags of checkpoint are. The others depend on them, or stand in the way
// of a move only.
var certainBlockers = []string{
	preflight.BlockTraced, preflight.BlockProcess, preflight.BlockIOUring, preflight.BlockUffd, preflight.BlockPerf, preflight.BlockBPF,
	preflight.BlockKVM, preflight.BlockFuse, preflight.BlockSecretMem, preflight.BlockSeccomp, preflight.BlockDevice, preflight.BlockMapping,
	preflight.BlockLimits,
}

// checkBlockers says what of a container can't be saved, before anything is stopped.
func checkBlockers(c *runtime.Container) error {
	found := slices.DeleteFunc(blockersOf(c), func(b spec.Blocker) bool { return !slices.Contains(certainBlockers, b.Code) })
	found = append(found, queuesOf(c)...)
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("checkpoint container %s: it has what CRIU can't save: %s", c.ID(), listBlockers(found))
}

// explainCheckpoint adds to an error of CRIU what zap knows of the container that may be the reason.
func explainCheckpoint(c *runtime.Container, err error) error {
	var failed *criu.Error
	if !errors.As(err, &failed) || failed.Err != nil {
		return err
	}
	if found := blockersOf(c); len(found) > 0 {
		return fmt.Errorf("%w; in the way may be: %s", err, listBlockers(found))
	}
	return err
}

// blockersOf inspects a container that runs. What can't be found out CRIU will say.
func blockersOf(c *runtime.Container) []spec.Blocker {
	cg, err := c.Cgroup()
	if err != nil {
		return nil
	}
	streams, err := c.Streams()
	if err != nil {
		return nil
	}
	plan, _ := runtime.PlanMounts(c.State()) // without the mounts that can't travel to another host
	found, err := preflight.Inspect(c.State().Pid, cg, streams.Names, plan)
	if err != nil {
		return nil
	}
	if l := c.State().Bundle.Spec.Linux; l != nil {
		found = append(found, preflight.Supervised(c.ID(), l.Seccomp)...)
	}
	return found
}

// queuesOf is the POSIX message queues that a container sees. A move takes them along; CRIU refuses a file system of them that is not empty,
// and its images have no place for what is in them.
func queuesOf(c *runtime.Container) []spec.Blocker {
	isQueues := func(m specs.Mount) bool { return m.Type == "mqueue" }
	if !slices.ContainsFunc(c.State().Bundle.Spec.Mounts, isQueues) {
		return nil
	}
	names, err := runtime.QueueNames(c.State().Pid)
	if err != nil {
		return nil // CRIU will say what it can't save
	}
	var found []spec.Blocker
	for _, name := range names {
		found = append(found, spec.Blocker{
			Code: preflight.BlockQueue, Subject: "message queue /" + name, Detail: "images have no place for POSIX message queues",
			Hint: "have the program remove it before (mq_unlink), or move the container with zap migrate",
		})
	}
	return found
}

func listBlockers(found []spec.Blocker) string {
	var texts []string
	for _, b := range found {
		texts = append(texts, b.String())
	}
	return strings.Join(texts, "; ")
}
