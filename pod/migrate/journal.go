package migrate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

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
type Journal struct {
	Header

	mu    sync.Mutex
	file  *os.File
	path  string
	phase Phase
	criu  *pod.Process
	// Entered is called after a phase is durable.
	Entered func(Phase)
}

// ErrNoJournal says that the pod is in no move.
var ErrNoJournal = errors.New("no move is under way")

// NewJournal begins a journal in dir; there must be none.
func NewJournal(dir string, h Header) (*Journal, error) {
	path := filepath.Join(dir, JournalName)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin journal: %w", err)
	}
	j := &Journal{Header: h, file: file, path: path}
	if err := j.write(h); err != nil {
		file.Close()
		os.Remove(path)
		return nil, err
	}
	return j, syncDir(dir)
}

// OpenJournal reads the journal in dir and goes on with it. A last line that a
// crash cut short counts as not written.
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
	lines := bufio.NewScanner(file)
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			if err := json.Unmarshal(lines.Bytes(), &j.Header); err != nil {
				file.Close()
				return nil, fmt.Errorf("read journal %s: %w", path, err)
			}
			continue
		}
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			break
		}
		if e.Phase != "" {
			j.phase = e.Phase
		}
		if e.Criu != nil {
			j.criu = e.Criu
		}
	}
	if j.Migration == "" {
		file.Close()
		return nil, fmt.Errorf("read journal %s: it has no header", path)
	}
	return j, lines.Err()
}

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

func (j *Journal) write(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Close closes the journal and leaves it on disk.
func (j *Journal) Close() error { return j.file.Close() }

// Remove ends the journal: the move is over on this side.
func (j *Journal) Remove() error {
	j.file.Close()
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
