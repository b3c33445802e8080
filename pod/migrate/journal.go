package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
)

// JournalName is the journal's name in a pod's directory.
const JournalName = "journal"

// Header is what a journal says of its move; it is the journal's first line.
type Header struct {
	Migration string    `json:"migration"` // 128 random bits in hex
	Pod       string    `json:"pod"`
	Side      string    `json:"side"` // "source" or "target"
	Peer      string    `json:"peer"` // the other host's address, as the side knows it
	TLS       string    `json:"tls,omitempty"`
	KeepLog   bool      `json:"keep_log,omitempty"`
	Started   time.Time `json:"started"`
	// Coordinator is the process that carries out the move.
	Coordinator pod.Process `json:"coordinator"`
}

// entry is one further line of a journal.
type entry struct {
	Phase Phase        `json:"phase,omitempty"`
	Criu  *pod.Process `json:"criu,omitempty"` // the source's CRIU, to be ended by a recovery
	At    time.Time    `json:"at"`
}

// Journal is the durable record of one side's phases. Every line is written
// and synced before the call returns; so is the directory when it is made.
//
// Whoever works on a move holds the journal's lock, which ends with the process:
// the coordinator from the first line to the last, a recovery while it acts.
type Journal struct {
	Header

	mu    sync.Mutex
	file  *os.File
	path  string
	phase Phase
	criu  *pod.Process
	torn  bool // the file ends in the middle of a line
	// Entered is called after a phase is durable.
	Entered func(Phase)
}

// ErrNoJournal says that the pod is in no move.
var ErrNoJournal = errors.New("no move is under way")

// ErrBusy says that another process works on the pod's move.
var ErrBusy = errors.New("a move of the pod is under way")

// NewJournal begins a journal in dir and takes its lock; there must be none. It
// appears with its header in it or not at all.
func NewJournal(dir string, h Header) (j *Journal, err error) {
	temp := filepath.Join(dir, "."+JournalName+"-"+h.Migration)
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin journal: %w", err)
	}
	defer func() {
		if err != nil {
			file.Close()
			err = fmt.Errorf("begin journal: %w", err)
		}
	}()
	path := filepath.Join(dir, JournalName)
	j = &Journal{Header: h, file: file, path: path}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = j.write(h)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		_ = os.Remove(temp)
		if errors.Is(err, os.ErrExist) {
			err = busy(dir)
		}
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return j, nil
}

// busy is ErrBusy with the process that the journal in dir names.
func busy(dir string) error {
	j, err := OpenJournal(dir)
	if err != nil {
		return ErrBusy
	}
	defer j.Close()
	return fmt.Errorf("%w (process %d, phase %s)", ErrBusy, j.Coordinator.Pid, j.Phase())
}

// OpenJournal reads the journal in dir and goes on with it, without its lock. A
// line that a crash cut short counts as not written.
func OpenJournal(dir string) (*Journal, error) {
	path := filepath.Join(dir, JournalName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoJournal
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{file: file, path: path}
	if err := j.read(); err != nil {
		file.Close()
		return nil, fmt.Errorf("read journal %s: %w (remove it if the pod is in no move)", path, err)
	}
	return j, nil
}

// LockJournal opens the journal in dir with its lock, which it waits for until
// ctx ends. The error is ErrBusy when somebody else keeps it, ErrNoJournal when
// the move is over.
func LockJournal(ctx context.Context, dir string) (*Journal, error) {
	j, err := OpenJournal(dir)
	if err != nil {
		return nil, err
	}
	if err := j.lock(ctx); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// lock takes the journal's lock and reads what was written meanwhile.
func (j *Journal) lock(ctx context.Context) error {
	for {
		err := unix.Flock(int(j.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case !j.current():
			return ErrNoJournal
		case err == nil:
			j.mu.Lock()
			defer j.mu.Unlock()
			return j.read()
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock journal %s: %w", j.path, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (process %d, phase %s)", ErrBusy, j.Coordinator.Pid, j.Phase())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// unlock lets others work on the move, while this process waits for the peer.
func (j *Journal) unlock() { _ = unix.Flock(int(j.file.Fd()), unix.LOCK_UN) }

// current says whether the pod's journal is still this one: the move may have
// been brought to its end, and another begun, by somebody else.
func (j *Journal) current() bool {
	mine, err := j.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(j.path)
	return err == nil && os.SameFile(mine, there)
}

// read takes the state from the file.
func (j *Journal) read() error {
	data, err := io.ReadAll(io.NewSectionReader(j.file, 0, maxJournal))
	if err != nil {
		return err
	}
	j.torn = len(data) > 0 && data[len(data)-1] != '\n'
	lines := bytes.Split(data, []byte("\n"))
	whole := lines[:len(lines)-1]
	if len(whole) == 0 {
		return errors.New("it has no header")
	}
	if err := json.Unmarshal(whole[0], &j.Header); err != nil {
		return err
	}
	if j.Migration == "" || j.Pod == "" {
		return errors.New("it has no header")
	}
	j.phase, j.criu = "", nil
	for _, line := range whole[1:] {
		var e entry
		if json.Unmarshal(line, &e) != nil {
			continue // a crash cut it short, and another process went on
		}
		if e.Phase != "" {
			j.phase = e.Phase
		}
		if e.Criu != nil {
			j.criu = e.Criu
		}
	}
	return nil
}

// maxJournal bounds a journal, in bytes; a long move writes some 1,000.
const maxJournal = 1 << 20

// Phase is the last phase that was entered; empty before the first.
func (j *Journal) Phase() Phase {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.phase
}

// Append enters a phase by its name: it is durable when the call returns.
func (j *Journal) Append(phase string) error { return j.Enter(Phase(phase)) }

// Enter enters a phase that may follow the last one.
func (j *Journal) Enter(p Phase) error {
	j.mu.Lock()
	err := check(j.phase, p)
	if err == nil {
		err = j.write(entry{Phase: p, At: time.Now().UTC()})
	}
	if err == nil {
		j.phase = p
	}
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("journal of pod %s: %w", j.Pod, err)
	}
	stopAt(j.Side, p)
	if j.Entered != nil {
		j.Entered(p)
	}
	return nil
}

// Reached notes a phase that another process has written to the same journal.
func (j *Journal) Reached(p Phase) {
	j.mu.Lock()
	j.phase = p
	j.mu.Unlock()
	if j.Entered != nil {
		j.Entered(p)
	}
}

// NoteCriu remembers the CRIU process that has the pod in its hands.
func (j *Journal) NoteCriu(p pod.Process) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.criu = &p
	return j.write(entry{Criu: &p, At: time.Now().UTC()})
}

// Path is the journal's file.
func (j *Journal) Path() string { return j.path }

// write adds a line. After a failure nothing of it is there, so that a phase
// that was not entered is not found by a recovery.
func (j *Journal) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	line = append(line, '\n')
	if j.torn {
		line = append([]byte{'\n'}, line...)
	}
	before, err := j.file.Stat()
	if err == nil {
		_, err = j.file.Write(line)
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		if before != nil {
			_ = errors.Join(j.file.Truncate(before.Size()), j.file.Sync()) // as far as it goes
		}
		return fmt.Errorf("write journal: %w", err)
	}
	j.torn = false
	return nil
}

// Close closes the journal and leaves it on disk.
func (j *Journal) Close() error { return j.file.Close() }

// Remove ends the journal: the move is over on this side. A journal that has
// taken its place meanwhile stays.
func (j *Journal) Remove() error {
	defer j.file.Close()
	if !j.current() {
		return nil
	}
	if err := os.Remove(j.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end journal: %w", err)
	}
	if err := syncDir(filepath.Dir(j.path)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
