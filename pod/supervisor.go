package pod

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// Job is what a supervisor is started with: a pod to run.
type Job struct {
	ID     string       `json:"id"`
	Bundle *spec.Bundle `json:"bundle"`
	Record Record       `json:"record"`
}

// Supervisor owns one pod: it is the parent of the pod's first process, holds
// its network namespace and standard streams, answers on its control socket and
// keeps its exit status. It ends with the pod.
type Supervisor struct {
	rt  *runtime.Runtime
	log *slog.Logger
	id  string
	dir string
	net *network.Network

	reserved bool // the directory is this supervisor's
	stream   *streams

	mu     sync.Mutex
	record Record
	pod    *runtime.Container
	pid    int
	moved  string // the peer that has the pod now

	arrival *arrival      // on the target of a move
	ended   chan struct{} // closed when the program has ended
	code    int
	answers sync.WaitGroup // requests under way, and the goroutine that takes them
}

// Supervise runs the pod of job until its program ends. It calls ready once:
// with nil when the pod runs, or with the reason why it does not.
func Supervise(ctx context.Context, rt *runtime.Runtime, job *Job, log *slog.Logger, ready func(error)) error {
	s := &Supervisor{rt: rt, log: log, id: job.ID, record: job.Record, ended: make(chan struct{})}
	listener, err := s.boot(ctx, job)
	if err != nil {
		s.release(ctx)
		if s.reserved {
			_ = RemoveDir(s.dir)
		}
		ready(err)
		return err
	}
	ready(nil)
	s.serve(listener)
	s.watch(ctx)
	listener.Close()
	s.finishAnswers()
	return nil
}

// boot creates and starts the pod.
func (s *Supervisor) boot(ctx context.Context, job *Job) (_ *net.UnixListener, err error) {
	s.dir = filepath.Join(s.rt.Root(), job.ID)
	if err := os.MkdirAll(s.rt.Root(), 0o700); err != nil {
		return nil, fmt.Errorf("make pod directory: %w", err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil { // this reserves the name
		return nil, fmt.Errorf("make pod directory: %w", err)
	}
	s.reserved = true
	for _, dir := range []string{job.Bundle.Overlay.Upper, job.Bundle.Overlay.Work} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make pod directory: %w", err)
		}
	}
	if err := os.Chmod(job.Bundle.Overlay.Upper, 0o755); err != nil { // it shows as the pod's root directory
		return nil, fmt.Errorf("make pod directory: %w", err)
	}
	if err := s.openStreams(&job.Record); err != nil {
		return nil, err
	}
	if err := s.stream.log.open(); err != nil {
		return nil, err
	}
	if err := s.openNetwork(ctx, job.Record.Network); err != nil {
		return nil, err
	}
	s.joinNetwork(job.Bundle.Spec)
	s.record.Supervisor = Self()
	s.record.Streams = s.stream.identities()
	extra, err := json.Marshal(&s.record)
	if err != nil {
		return nil, fmt.Errorf("encode pod record: %w", err)
	}
	options := runtime.CreateOptions{Extra: extra}
	if job.Record.TTY {
		options.Console = s.stream.setMaster
	} else {
		options.Stdin, options.Stdout, options.Stderr = s.stream.child[0], s.stream.child[1], s.stream.child[2]
	}
	if s.pod, err = s.rt.Create(ctx, job.ID, job.Bundle, options); err != nil {
		return nil, err
	}
	listener, err := listenControl(s.dir)
	if err != nil {
		return nil, err
	}
	s.setPid(s.pod.State().Pid)
	if err := s.pod.Start(ctx); err != nil {
		listener.Close()
		return nil, err
	}
	s.stream.start()
	return listener, nil
}

func (s *Supervisor) openStreams(r *Record) error {
	log := newLog(LogPath(s.dir))
	if r.TTY {
		s.stream = newTerminal(log, r.Relayed)
		return nil
	}
	var err error
	s.stream, err = newPipes(log, r.Stdin, r.Null)
	return err
}

// openNetwork makes the pod's network namespace and brings its link up.
func (s *Supervisor) openNetwork(ctx context.Context, cfg *network.Config) (err error) {
	if s.net, err = network.New(); err != nil {
		return err
	}
	if cfg == nil {
		return nil
	}
	return s.net.Up(ctx, *cfg)
}

// joinNetwork makes the pod join the supervisor's network namespace: the
// descriptor is the namespace's only name, so that nothing of it stays on the
// host when the processes are gone.
func (s *Supervisor) joinNetwork(sp *specs.Spec) {
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.net.File().Fd())
	for i, ns := range sp.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			sp.Linux.Namespaces[i].Path = path
			return
		}
	}
	sp.Linux.Namespaces = append(sp.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
}

// watch waits for the program's end and puts everything away.
func (s *Supervisor) watch(ctx context.Context) {
	s.code = reap(s.pid)
	s.stream.waitOutput()
	s.mu.Lock()
	moved := s.moved
	s.mu.Unlock()
	if moved != "" {
		s.stream.end(FrameMoved, []byte(moved))
	} else {
		s.recordExit()
		s.stream.end(FrameExit, []byte{byte(s.code >> 24), byte(s.code >> 16), byte(s.code >> 8), byte(s.code)})
	}
	close(s.ended)
	s.release(ctx)
}

// reap waits for the child pid and returns its exit code as a shell counts.
func reap(pid int) int {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 255
		case status.Signaled():
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}

// recordExit stores the exit status: the pod is stopped and stays listed.
func (s *Supervisor) recordExit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := Load(s.rt, s.id)
	if err != nil {
		s.log.Error("record exit", "pod", s.id, "error", err.Error())
		return
	}
	exit := &Exit{Code: s.code, At: time.Now().UTC()}
	if err := p.Update(func(r *Record) { r.Exit = exit }); err != nil {
		s.log.Error("record exit", "pod", s.id, "error", err.Error())
	}
}

// release gives back what the host lent to the pod: its link, its network
// namespace, its cgroup.
func (s *Supervisor) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if s.pod != nil {
		if cg, err := s.pod.Cgroup(); err == nil {
			_ = cg.Kill(ctx)
			_ = cg.Delete(ctx)
		}
	}
	if s.net != nil {
		if s.record.Network != nil {
			_ = s.net.Remove(ctx)
		}
		_ = s.net.Abandon()
		_ = s.net.Close()
	}
	if s.stream != nil {
		s.stream.close()
		_ = s.stream.log.close()
	}
}

// serve answers requests on the control socket, in the background, until the
// listener closes.
func (s *Supervisor) serve(listener *net.UnixListener) {
	s.answers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.answers.Go(func() { s.handle(conn) })
		}
	})
}

// finishAnswers waits, at most a second, until who has asked knows the answer.
// The listener is closed by now.
func (s *Supervisor) finishAnswers() {
	done := make(chan struct{})
	go func() { s.answers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

func (s *Supervisor) setPid(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

// pidNow is the pod's first process, for other goroutines than the supervisor's own.
func (s *Supervisor) pidNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// requestWithin is how long a client may take to say what it wants.
const requestWithin = 10 * time.Second

func (s *Supervisor) handle(conn net.Conn) {
	reader := bufio.NewReader(conn)
	_ = conn.SetReadDeadline(time.Now().Add(requestWithin))
	line, err := readLine(reader)
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		answer(conn, &Answer{Error: fmt.Sprintf("read request: %v", err)})
		conn.Close()
		return
	}
	if r.Op == OpAttach {
		s.handleAttach(conn, reader, r)
		return
	}
	answer(conn, s.do(r))
	conn.Close()
}

func answer(conn net.Conn, a *Answer) error {
	return json.NewEncoder(conn).Encode(a)
}

// do carries out one request.
func (s *Supervisor) do(r Request) *Answer {
	switch r.Op {
	case OpStatus:
		return s.status()
	case OpWait:
		<-s.ended
		return &Answer{Code: s.code, Moved: s.movedTo()}
	case OpDrain:
		return &Answer{LogSize: s.stream.drain(500 * time.Millisecond)}
	case OpMoved:
		s.mu.Lock()
		s.moved = r.Peer
		s.mu.Unlock()
		return &Answer{}
	case OpCommit, OpAbort, OpArrival:
		return s.doArrival(r)
	default:
		return &Answer{Error: fmt.Sprintf("request %q is not known", r.Op)}
	}
}

func (s *Supervisor) movedTo() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

func (s *Supervisor) status() *Answer {
	a := &Answer{Status: StatusRunning, Pid: s.pidNow(), TTY: s.record.TTY}
	a.Rows, a.Columns = s.stream.size()
	if s.arrival != nil {
		select {
		case <-s.arrival.finished:
		default:
			a.Status = StatusArriving
		}
	}
	select {
	case <-s.ended:
		a.Status, a.Code = StatusStopped, s.code
	default:
	}
	return a
}

// handleAttach connects a client to the pod's streams until either ends. Of a pod
// that has ended it gets the last frame.
func (s *Supervisor) handleAttach(conn net.Conn, reader *bufio.Reader, r Request) {
	first, err := json.Marshal(&Answer{Status: StatusRunning, TTY: s.record.TTY})
	if err != nil {
		conn.Close()
		return
	}
	s.stream.attach(conn, append(first, '\n'), r.Replay)
	defer s.stream.detach(conn)
	if r.Rows > 0 {
		_ = s.stream.resize(r.Rows, r.Columns)
	}
	for {
		kind, data, err := ReadFrame(reader)
		if err != nil {
			return
		}
		switch {
		case kind == FrameStdin && r.Stdin:
			if s.stream.write(data) != nil {
				return
			}
		case kind == FrameResize && len(data) == 4:
			_ = s.stream.resize(uint16(data[0])<<8|uint16(data[1]), uint16(data[2])<<8|uint16(data[3]))
		}
	}
}

// Self names this process.
func Self() Process {
	pid := os.Getpid()
	start, _ := StartTime(pid)
	return Process{Pid: pid, StartTime: start}
}

// StartTime is when pid started, in clock ticks since boot (field 22 of
// /proc/PID/stat, proc(5)).
func StartTime(pid int) (uint64, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// ProcessState is the state of pid as a letter: R, S, D, T for stopped, Z, ...
// (field 3 of /proc/PID/stat, proc(5)).
func ProcessState(pid int) (byte, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return fields[0][0], nil
}

// statFields are the fields of /proc/PID/stat from the third on, at least twenty.
func statFields(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}

// Alive says whether the process still runs (a zombie does not).
func (p Process) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	fields, err := statFields(p.Pid)
	if err != nil || fields[0] == "Z" || fields[0] == "X" {
		return false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return err == nil && start == p.StartTime
}
