package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/spec"
)

// judgeTrial makes what CRIU's trial came to a reason in the source itself: a CRIU that is too old for its kernel fails only in the dump, with
// the pod frozen.
func (s *Source) judgeTrial(ctx context.Context, err error) error {
	var trial *criu.TrialError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case !errors.As(err, &trial):
		s.Log.Warn("try CRIU", "error", err.Error()) // it was not to blame
		return nil
	case trial.Step == criu.TrialRestore:
		return nil // nothing is restored here
	}
	cause, hint := trial.Explain()
	release := "this kernel"
	if m, err := spec.ReadMachine(s.binary.Version); err == nil {
		release = "Linux " + m.Kernel
		need := criu.Binary{Version: spec.CRIUForKernel(m.Kernel)}
		if hint == "" && s.binary.Version < need.Version {
			hint = "install CRIU " + need.VersionString() + " or later on this host"
		}
	}
	if hint == "" {
		hint = "see zap check on this host"
	}
	s.found = append(s.found, spec.Blocker{
		Code: spec.BlockCRIU, Subject: s.binary.VersionString(), Detail: fmt.Sprintf("it can't %s on %s: %s", trial.Step, release, cause), Hint: hint,
	})
	return nil
}
