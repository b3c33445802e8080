package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/zap-migrate/zap/criu"
)

// featureHints say what is lost without a feature of CRIU's; one without a
// hint is only told.
var featureHints = map[string]string{
	"mem_dirty_track":      "CRIU can't pre-dump memory here (CONFIG_MEM_SOFT_DIRTY)",
	"uffd":                 "memory can't be sent after the pod (CONFIG_USERFAULTFD)",
	"uffd-noncoop":         "memory can't be sent after the pod (userfaultfd events)",
	"pagemap_scan":         "finding a pod's pages takes longer: Linux 6.7 or newer is quicker",
	"timens":               "a moved program sees CLOCK_MONOTONIC jump (CONFIG_TIME_NS)",
	"clone3_set_tid":       "process ids are restored by the slow way: Linux 5.5 or newer is better",
	"pidfd_store":          "a process id used again between two pre-dumps is not noticed",
	"move_mount_set_group": "mounts are restored by CRIU's old engine: Linux 5.15 or newer is better",
	"overlayfs_maps":       "files mapped from an overlay may not be found: Linux 6.12 or newer is better",
	"get_rseq_conf":        "programs with restartable sequences (glibc 2.35 and newer) can't be moved: Linux 5.13 or newer",
	"sockopt_buf_lock":     "sizes of socket buffers are not kept exactly",
	"openat2":              "",
}

// criu checks CRIU: the binary, what it says of the kernel, and a trial.
func (c *checker) criu(ctx context.Context) []checkRow {
	row := checkRow{Name: "criu", Status: checkOK}
	b, err := criu.Find(ctx, "")
	if err != nil {
		row.Status, row.Value = checkFail, err.Error()
		row.Hint = "install CRIU (make deps): without it pods run, but can't be moved"
		return []checkRow{row}
	}
	row.Value = fmt.Sprintf("%s at %s (by %s), sha256 %s", b.VersionString(), b.Path, b.Source, b.SHA256)
	return slices.Concat([]checkRow{row}, criuForPodman(b), []checkRow{c.criuCheck(ctx, b)}, c.criuFeatures(ctx, b), []checkRow{c.trial(ctx, b)})
}

// criuForPodman is a row where podman would not let zap save anything.
func criuForPodman(b *criu.Binary) []checkRow {
	if _, err := exec.LookPath("criu"); err == nil {
		return nil
	}
	return []checkRow{{
		Name: "criu for podman", Status: checkWarn, Value: "none in PATH",
		Hint: "podman asks it for its version before it calls a runtime (ln -s " + b.Path + " /usr/local/sbin/criu)",
	}}
}

// criuCheck is what `criu check` says.
func (c *checker) criuCheck(ctx context.Context, b *criu.Binary) checkRow {
	r := checkRow{Name: "criu check", Status: checkOK, Value: "looks good"}
	if err := criu.Check(ctx, b, c.cache); err != nil {
		r.Status, r.Value, r.Hint = checkFail, err.Error(), "the kernel lacks something that every dump or restore needs"
	}
	return r
}

// criuFeatures is a row per feature of CRIU's.
func (c *checker) criuFeatures(ctx context.Context, b *criu.Binary) []checkRow {
	features, err := criu.CheckFeatures(ctx, b, c.cache, criu.FeatureNames...)
	if err != nil {
		return []checkRow{{Name: "criu features", Status: checkFail, Value: err.Error()}}
	}
	var rows []checkRow
	for _, f := range features {
		r := checkRow{Name: "criu " + f.Name, Status: checkOK, Value: "available"}
		if !f.Present {
			r.Status, r.Value, r.Hint = checkWarn, "missing: "+f.Detail, featureHints[f.Name]
		}
		rows = append(rows, r)
	}
	return rows
}

// trial dumps and restores a small tree.
func (c *checker) trial(ctx context.Context, b *criu.Binary) checkRow {
	r := checkRow{Name: "trial dump and restore", Status: checkOK}
	result, err := criu.Trial(ctx, b, c.cache, c.dir)
	if err == nil {
		err = criu.SaveTried(b, c.cache)
	}
	if err != nil {
		r.Status, r.Value = checkFail, err.Error()
		var e *criu.TrialError
		if errors.As(err, &e) {
			cause, hint := e.Explain()
			r.Value, r.Hint = e.Step+": "+strings.TrimSuffix(cause, "."), hint
		}
		return r
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	r.Value = fmt.Sprintf("CRIU started in %s, dumped in %s, restored in %s", ms(result.Start), ms(result.Dump), ms(result.Restore))
	return r
}
