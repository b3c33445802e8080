package main

import (
	"errors"
	"fmt"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/boot"
)

// Where this program is installed under the name runc, scripts and log scrapers look for what runc says. Then an error is told in runc's
// frame: first the verb, then the stage at which it came up, and zap's own words for the cause.

// runcVerbs is how runc's errors begin, for the commands that have a beginning of their own.
var runcVerbs = map[string]string{
	"runc create": "runc create failed: ",
	"runc run":    "runc run failed: ",
	"runc exec":   "exec failed: ",
}

const (
	runcStart = "unable to start container process: "
	runcInit  = runcStart + "error during container init: "
)

// runcKinds are the errors that runc has a frame for, or only one text. The first that knows an error counts.
var runcKinds = []func(err error) (text string, known bool){
	func(err error) (string, bool) {
		var stage *runtime.StageError
		if !errors.As(err, &stage) {
			return "", false
		}
		switch stage.Stage {
		case runtime.StageCgroup:
			return runcStart + "unable to apply cgroup configuration: " + stage.Error(), true
		case runtime.StageMount:
			return runcInit + fmt.Sprintf("error mounting %q to rootfs at %q: %v", stage.Mount.Source, stage.Mount.Destination, stage), true
		}
		return runcInit + stage.Error(), true
	},
	alone[*boot.Failure](runcStart), // of exec: those of create and run have a stage
	only(runtime.ErrExist),
	only(runtime.ErrNotExist),
}

// alone knows errors of a type: a frame and what they say without what stands around them.
func alone[E error](frame string) func(error) (string, bool) {
	return func(err error) (string, bool) {
		var e E
		if !errors.As(err, &e) {
			return "", false
		}
		return frame + e.Error(), true
	}
}

// only knows an error whose text is all that runc says.
func only(sentinel error) func(error) (string, bool) {
	return func(err error) (string, bool) { return sentinel.Error(), errors.Is(err, sentinel) }
}

// inRuncWords is what runc would say about the error of a command, given by its path such as "runc run". What came up while
// something else was cleared away has no place in a frame: such errors are told whole.
func inRuncWords(command string, err error) string {
	var usage *usageError
	if errors.As(err, &usage) {
		return usage.Error()
	}
	text := err.Error()
	if !severalErrors(err) {
		for _, kind := range runcKinds {
			if framed, known := kind(err); known {
				text = framed
				break
			}
		}
	}
	return runcVerbs[command] + text
}

// severalErrors says whether errors were joined on the way.
func severalErrors(err error) bool {
	for err != nil {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			if len(joined.Unwrap()) > 1 {
				return true
			}
			err = joined.Unwrap()[0]
			continue
		}
		err = errors.Unwrap(err)
	}
	return false
}
