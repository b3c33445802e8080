package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// stateVersion is the version of the state file that this package writes.
const stateVersion = 1

const (
	stateName    = "state.json"
	maxStateSize = 64 << 20 // a bundle is at most 16 MiB of config.json
)

// State is what is written down about a container.
type State struct {
	// Version is the version of the format.
	Version int    `json:"version"`
	ID      string `json:"id"`
	// Status is the last status that was recorded; Container.Status says what is true now.
	Status specs.ContainerState `json:"status"`
	// Pid is the container's first process, in the pid namespace of the runtime; with StartTime, in clock ticks after the boot, it names a
	// process even when the pid was used again.
	Pid       int       `json:"pid"`
	StartTime uint64    `json:"startTime"`
	Created   time.Time `json:"created"`
	// Bundle is the bundle as it was when the container was created.
	Bundle *spec.Bundle `json:"bundle"`
	// CgroupPath is the cgroup's path from the hierarchies' mount points on, Cgroups its directories by controller.
	CgroupPath string            `json:"cgroupPath"`
	Cgroups    map[string]string `json:"cgroups,omitempty"`
	// SystemdUnit is systemd's unit for the cgroup, when systemd made it.
	SystemdUnit string `json:"systemdUnit,omitempty"`
	// Stdio is what descriptors 0 to 2 were when the container was created, as readlink on /proc/self/fd shows: "pipe:[123]".
	Stdio [3]string `json:"stdio"`
	// Annotations are the specification's.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Owner is the name, or else the number, of the user that created the container.
	Owner string `json:"owner"`
	// RootMount is the mount that the container's root file system is, when that is in the runtime's mount namespace; 0 otherwise.
	RootMount uint64 `json:"rootMount,omitempty"`
	// RDT is the container's place in the resctrl file system; nil without one.
	RDT *RDT `json:"rdt,omitempty"`
	// NoNewKeyring says that the container kept the session keyring of the one who made it.
	NoNewKeyring bool `json:"noNewKeyring,omitempty"`
	// Tracer says that an exec gave a process CAP_SYS_PTRACE, which the container's own has not; see Container.Exposed.
	Tracer bool `json:"tracer,omitempty"`
	// Pod belongs to package pod.
	Pod json.RawMessage `json:"pod,omitempty"`

	file []byte // the content of the state file that this is
}

// readState reads the state file in dir. When it is what known was read from or written to, the answer is known.
func readState(dir string, known *State) (*State, error) {
	f, err := os.Open(filepath.Join(dir, stateName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxStateSize {
		return nil, fmt.Errorf("%s: larger than %d bytes", f.Name(), maxStateSize)
	}
	if known != nil && bytes.Equal(data, known.file) {
		return known, nil
	}
	s := &State{file: data}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: version %d, and this zap knows %d", f.Name(), s.Version, stateVersion)
	}
	if s.Bundle == nil || s.Bundle.Spec == nil || s.ID != filepath.Base(dir) {
		return nil, fmt.Errorf("%s: incomplete", f.Name())
	}
	return s, nil
}

// writeState replaces the state file in dir. That of a pod is on disk when the call returns, for a pod has more than processes. Another
// container is nothing any more after the host has crashed, so nobody waits for the disk.
func writeState(dir string, s *State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := replaceFile(dir, stateName, data, s.Pod != nil); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	s.file = data
	return nil
}

// replaceFile writes a file under another name and renames it, so that a reader sees the old content or the new, never a part.
func replaceFile(dir, name string, data []byte, durable bool) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil || !durable {
		return err
	}
	d, derr := os.Open(dir)
	if derr != nil {
		return nil // the new file is in place; only its durability is unknown
	}
	_ = d.Sync()
	d.Close()
	return nil
}

// writePidFile writes a pid where an engine waits for it.
func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	dir, name := filepath.Split(abs)
	if err := replaceFile(dir, name, []byte(strconv.Itoa(pid)), false); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return os.Chmod(abs, 0o644)
}
