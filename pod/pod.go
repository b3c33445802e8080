package pod

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// Record is what zap knows of a pod beyond its container: it is stored as the
// Pod part of the container's state and travels with the pod.
type Record struct {
	// UID tells two pods of one name apart; it is made at `zap pod run` and kept by moves.
	UID string `json:"uid"`
	// Network is the pod's network identity; nil for a pod with loopback only.
	Network *network.Config `json:"network,omitempty"`
	// Volumes are the host paths that the pod uses and that do not travel.
	Volumes []Volume `json:"volumes,omitempty"`
	// Layers are the digests of the lower layers, the uppermost first, as far as they are known.
	Layers []Layer `json:"layers,omitempty"`
	// TTY says that the pod's standard streams are a terminal.
	TTY bool `json:"tty,omitempty"`
	// Relayed says that the terminal was made for an engine, which relays it to
	// another terminal: a newline comes without a carriage return.
	Relayed bool `json:"relayed,omitempty"`
	// Stdin says that the pod's standard input is kept open for an attach.
	Stdin bool `json:"stdin,omitempty"`
	// Supervisor is the process that owns the pod on this host.
	Supervisor Process `json:"supervisor"`
	// Exit is set when the pod's program has ended.
	Exit *Exit `json:"exit,omitempty"`
	// Migration names the move that brought the pod to this host.
	Migration string `json:"migration,omitempty"`
	// Moves counts how often the pod has moved, and From is the host it came from.
	Moves int    `json:"moves,omitempty"`
	From  string `json:"from,omitempty"`
	// Streams is what the standard streams were when the pod was created, in
	// the form in which CRIU names them (pipe:[INODE], file[MOUNT:INODE]);
	// empty for those that do not lead out of the pod.
	Streams [3]string `json:"streams"`
	// Null says which of the streams are /dev/null, as they are on every host then.
	Null [3]bool `json:"null,omitzero"`
}

// Volume is a bind mount of a host's file or directory.
type Volume struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Layer is a read-only lower layer.
type Layer struct {
	Path        string `json:"path"`
	Digest      string `json:"digest,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Size        int64  `json:"size,omitempty"` // bytes of its files
}

// Process names a process beyond the reuse of its pid.
type Process struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

// Exit is how a pod's program ended: as a shell counts, 128 plus the signal's
// number for one that was killed.
type Exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
}

// Status words of a pod beside the container's own.
const (
	StatusRunning  = "running"
	StatusStopped  = "stopped"
	StatusMoving   = "moving"
	StatusArriving = "arriving"
)

var namePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
})

// CheckName says whether name can name a pod: letters, digits, dot, dash and
// underscore, at most 63 characters.
func CheckName(name string) error {
	if name == "layers" {
		return errors.New("pod name layers: it is taken by the directory of lower layers")
	}
	if !namePattern().MatchString(name) {
		return fmt.Errorf("pod name %q: use letters, digits, '.', '-' and '_', at most 63, the first a letter or digit", name)
	}
	return nil
}

// idMax is the most letters of a container's name with which it can move.
const idMax = 128

// CheckID says whether a container called id can be here: it has a name that
// CheckName takes, or that an engine made, such as 64 hexadecimal digits.
func CheckID(id string) error {
	if err := runtime.CheckID(id); err != nil {
		return err
	}
	if id[0] == '.' || id == "layers" || len(id) > idMax {
		return fmt.Errorf("container name %q: at most %d letters, the first no dot, and not layers", id, idMax)
	}
	return nil
}

// Pod is a pod of this host.
type Pod struct {
	*runtime.Container
	Record Record
}

// ErrNotPod says that a container was made with the OCI verbs and has no pod record.
var ErrNotPod = errors.New("not a pod")

// Load reads the pod called name. A container made by the OCI verbs loads too,
// with an empty Record: it is a pod of one.
func Load(rt *runtime.Runtime, name string) (*Pod, error) {
	c, err := rt.Load(name)
	if err != nil {
		return nil, err
	}
	p := &Pod{Container: c}
	if raw := c.State().Pod; len(raw) > 0 {
		if err := json.Unmarshal(raw, &p.Record); err != nil {
			return nil, fmt.Errorf("read pod record of %s: %w", name, err)
		}
	}
	return p, nil
}

// Supervised says whether the pod was made by `zap pod run` (or arrived by a
// move) and so has a supervisor of its own.
func (p *Pod) Supervised() bool { return p.Record.UID != "" }

// Update changes the pod's record as it is on disk now, where its supervisor
// may have changed it, and keeps the result.
func (p *Pod) Update(change func(*Record)) error {
	var failed error
	err := p.Save(func(s *runtime.State) {
		var r Record
		if len(s.Pod) > 0 {
			failed = json.Unmarshal(s.Pod, &r)
		}
		if failed != nil {
			return
		}
		change(&r)
		var raw []byte
		if raw, failed = json.Marshal(&r); failed == nil {
			s.Pod, p.Record = raw, r
		}
	})
	if failed != nil {
		return fmt.Errorf("update record of pod %s: %w", p.ID(), failed)
	}
	return err
}

// removedName is the directory below the root in which removals end.
const removedName = ".removed"

// RemoveDir removes a pod's directory so that a crash leaves either all of it or
// nothing that has the pod's name. It is no error if there is none.
func RemoveDir(dir string) error {
	trash := filepath.Join(filepath.Dir(dir), removedName)
	gone := filepath.Join(trash, NewUID())
	err := os.MkdirAll(trash, 0o700)
	if err == nil {
		err = os.Rename(dir, gone)
	}
	if err != nil { // no room, no such directory, or somebody else has just tidied up
		gone = dir
	}
	err = os.RemoveAll(gone)
	_ = os.Remove(trash) // unless there is more in it
	if err != nil {
		return fmt.Errorf("remove pod directory: %w", err)
	}
	return nil
}

// SweepRemoved ends what RemoveDir began before a crash, in a root directory.
func SweepRemoved(root string) error { return os.RemoveAll(filepath.Join(root, removedName)) }

// LogPath is the pod's log within its directory.
func LogPath(dir string) string { return filepath.Join(dir, "log") }

// digest names a pod of a root directory in few letters: two hosts of a test
// share one tree of cgroups.
func digest(root, name string) string {
	sum := sha256.Sum256([]byte(root + "\x00" + name))
	return hex.EncodeToString(sum[:5])
}

// CgroupPath is the cgroup of a pod of the root directory.
func CgroupPath(root, name string) string { return "/zap/" + digest(root, name) + "-" + name }

// HostLink is the name of the host's end of a pod's link.
func HostLink(root, name string) string { return "zp" + digest(root, name) }

// LocalOverlay is the overlay, still without lower layers, of the pod whose
// directory is dir.
func LocalOverlay(dir string) *spec.Overlay {
	return &spec.Overlay{Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
}

// NewUID makes a pod's UID: 128 random bits.
func NewUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
