package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// The steps of a trial that CRIU may fail in.
const (
	TrialStart   = "start"   // neither of the following
	TrialDump    = "dump"    // pods can't leave this machine
	TrialRestore = "restore" // none can come to it
)

// TrialError says that this CRIU does not work with this kernel.
type TrialError struct {
	Step string // TrialStart, TrialDump or TrialRestore
	Err  error  // mostly an *Error
}

// Error names the step and CRIU's complaint.
func (e *TrialError) Error() string { return fmt.Sprintf("try a %s: %v", e.Step, e.Err) }

// Unwrap returns CRIU's own error.
func (e *TrialError) Unwrap() error { return e.Err }

// Explain returns what CRIU complained of and what to do about it; the hint is empty when nothing is known.
func (e *TrialError) Explain() (cause, hint string) {
	var own *Error
	if errors.As(e.Err, &own) {
		return own.Cause, own.Hint
	}
	return e.Err.Error(), ""
}

// Tried makes a [Trial], unless one went well since the machine was booted: `criu check` does not find out whether a CRIU can dump on a newer
// kernel than it knows, nor does a pre-dump. That it went well is kept in the directory cache for this binary and this boot; a failure is
// not, for what was in the way may be gone the next time. The error is a *TrialError when CRIU is at fault.
func Tried(ctx context.Context, b *Binary, cache string) error {
	if cache == "" {
		_, err := Trial(ctx, b, "", "")
		return err
	}
	c, err := newKdatCache(cache, b)
	if err != nil {
		return err
	}
	if c.tried() {
		return nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	if _, err := Trial(ctx, b, cache, cache); err != nil {
		return err
	}
	return c.saveTried()
}

// SaveTried keeps that a trial of b went well, for [Tried].
func SaveTried(b *Binary, cache string) error {
	c, err := newKdatCache(cache, b)
	if err != nil {
		return err
	}
	return c.saveTried()
}

// triedPath is the file that says so. It goes with the kernel facts when those of another boot are saved.
func (c *kdatCache) triedPath() string { return filepath.Join(c.dir, c.name+".tried") }

func (c *kdatCache) tried() bool {
	_, err := os.Stat(c.triedPath())
	return err == nil
}

func (c *kdatCache) saveTried() error {
	if err := renameio.WriteFile(c.triedPath(), nil, 0o600, renameio.WithTempDir(c.dir)); err != nil {
		return fmt.Errorf("save that CRIU works: %w", err)
	}
	return nil
}
