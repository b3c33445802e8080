package runtime

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/boot"
)

// Stage is how far a container had come when making it failed.
type Stage int

// The stages that a StageError can name.
const (
	StageCgroup Stage = iota + 1 // its cgroup was being made and limited
	StageInit                    // its first process was at work, with its parent's help and that of hooks
	StageMount                   // likewise, at one of the specification's mounts
)

// StageError says at which stage its cause came up, for those who tell it in other words. Its text is the cause's.
type StageError struct {
	Stage Stage
	Mount specs.Mount // with StageMount
	Err   error
}

func (e *StageError) Error() string { return e.Err.Error() }

func (e *StageError) Unwrap() error { return e.Err }

// atInit adds the stage to an error that came up while the first process was at work.
func (c *creation) atInit(err error) error {
	var stage *StageError
	if err == nil || errors.As(err, &stage) {
		return err
	}
	stage = &StageError{Stage: StageInit, Err: err}
	var failure *boot.Failure
	if errors.As(err, &failure) {
		for i, m := range c.bundle.Spec.Mounts {
			if failure.Origin == fmt.Sprintf("config.json: mounts[%d]", i) {
				stage.Stage, stage.Mount = StageMount, m
			}
		}
	}
	return stage
}
