package criu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

// maxLog bounds how much of a log is read.
const maxLog = 4 << 20

// defaultLog is CRIU's name for its log when a request names none.
const defaultLog = "criu.log"

// Diagnosis is what a CRIU log says went wrong.
type Diagnosis struct {
	Cause string // the first real error, in CRIU's words, without time and source place; empty when there is none
	Place string // its place in CRIU's source, "criu/sk-inet.c:191"
	Hint  string // what to do about it, when the cause is a known one
}

// errorLine matches "(00.012345)   1234: Error (criu/files.c:98): message",
// where time and process id may be missing.
var errorLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:\(\d+\.\d+\)\s*)?(?:\d+:\s*)?(Error|Warn) +\(([^)]*)\): (.*)$`)
})

// uncollected matches what CRIU tells only in its most talkative log, where it is the reason of its failure.
var uncollected = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`Sock\w+ collect procedure family \w+ proto \w+: -\d+$`)
})

// harmless are errors that CRIU logs and goes on.
var harmless = []string{
	"rlimit: Can't setup RLIMIT_NOFILE", // no CAP_SYS_RESOURCE
}

// consequences are errors that follow from another one; they count only when
// nothing better is there.
var consequences = []string{
	"Dumping FAILED", "Restoring FAILED", "Killing processes because of failure",
	"One of more action scripts failed", "RPC client reported script error",
	"Can't send response", "Unable to detach from", "Pre dump script failed with", "Aborting restore due to",
	"exited, status=", "killed by signal", "Dump files (pid:", "Dump mappings", "cgroupd: recv req error",
}

// Diagnose finds the first real error in a CRIU log and, for known causes, a
// hint. An error that only follows from others counts when there is no other,
// and before that a warning that names a known cause. It reads at most 4 MiB.
func Diagnose(log io.Reader) Diagnosis {
	var first, warning, consequence Diagnosis
	var all strings.Builder
	keep := func(d *Diagnosis, place, cause string) {
		if d.Cause == "" {
			*d = Diagnosis{Cause: cause, Place: place}
		}
	}
	lines := bufio.NewScanner(io.LimitReader(log, maxLog))
	lines.Buffer(make([]byte, 0, 4096), maxLog)
	for lines.Scan() {
		m := errorLine().FindStringSubmatch(lines.Text())
		if quiet := uncollected().FindString(lines.Text()); quiet != "" && hint(quiet) != "" {
			keep(&warning, "", quiet)
		}
		if m == nil || containsAny(m[3], harmless) {
			continue
		}
		place, cause := m[2], strings.TrimSpace(m[3])
		switch {
		case m[1] == "Warn":
			if hint(cause) != "" {
				keep(&warning, place, cause)
			}
			continue
		case containsAny(cause, consequences):
			keep(&consequence, place, cause)
		default:
			keep(&first, place, cause)
		}
		all.WriteString(cause + "\n")
	}
	for _, d := range []Diagnosis{warning, consequence} {
		keep(&first, d.Place, d.Cause)
	}
	// The line that names the known cause may come after the first one.
	if first.Hint = hint(first.Cause); first.Hint == "" {
		first.Hint = hint(all.String())
	}
	return first
}

func containsAny(s string, list []string) bool {
	for _, sub := range list {
		if strings.Contains(s, sub) {
			return true
		}
	}
	return false
}

// readLog diagnoses the log of the request that opts belong to.
func readLog(opts *rpc.CriuOpts) Diagnosis {
	name := openableLog(opts)
	if name == "" {
		return Diagnosis{}
	}
	f, err := os.Open(name)
	if err != nil {
		return Diagnosis{}
	}
	defer f.Close()
	if seekToLast(f, maxLog) != nil { // what ended it stands at the end
		return Diagnosis{}
	}
	return Diagnose(f)
}

// openableLog returns a path by which this process can open the log.
func openableLog(opts *rpc.CriuOpts) string {
	if opts == nil {
		return ""
	}
	name := opts.GetLogFile()
	if name == "" {
		name = defaultLog
	}
	fd := opts.GetImagesDirFd()
	if opts.WorkDirFd != nil {
		fd = opts.GetWorkDirFd()
	}
	if fd < 0 {
		if opts.GetImagesDir() == "" {
			return ""
		}
		return filepath.Join(opts.GetImagesDir(), name)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
}

// logPath returns the log's path as a person would open it, or "" when there
// is no log.
func logPath(opts *rpc.CriuOpts) string {
	name := openableLog(opts)
	if name == "" {
		return ""
	}
	log, err := os.Stat(name)
	if err != nil {
		return ""
	}
	dir, err := os.Readlink(filepath.Dir(name))
	if err != nil {
		return name
	}
	path := filepath.Join(dir, filepath.Base(name))
	if there, err := os.Stat(path); err != nil || !os.SameFile(log, there) {
		return "" // its directory is mounted nowhere
	}
	return path
}
