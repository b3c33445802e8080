package pod

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// streams are a pod's standard streams: pipes or a terminal on one side, the
// log and the attached clients on the other. They are never files of the host,
// because CRIU refuses a file that something else has written to.
type streams struct {
	log *logWriter

	relayed bool

	child [3]*os.File // the pod's ends of the pipes; nil with a terminal
	names [3]string

	mu      sync.Mutex
	input   *os.File    // to the pod's standard input; nil when closed
	master  *os.File    // the terminal's master
	outputs [2]*os.File // from the pod's standard output and error; nil for those that are /dev/null
	clients map[net.Conn]struct{}
	readers sync.WaitGroup
}

// newPipes makes the pipes of a pod without a terminal, for those of its
// streams that are not /dev/null. Unless stdin is wanted, the pod reads an end
// of file at once.
func newPipes(log *logWriter, stdin bool, null [3]bool) (*streams, error) {
	s := &streams{log: log, clients: map[net.Conn]struct{}{}}
	for i := range s.child {
		var err error
		switch {
		case null[i]:
			s.child[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		case i == 0:
			s.child[0], s.input, err = os.Pipe()
		default:
			s.outputs[i-1], s.child[i], err = os.Pipe()
		}
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make standard streams: %w", err)
		}
		s.names[i] = nameOf(s.child[i])
	}
	if s.input != nil && !stdin {
		s.input.Close()
		s.input = nil
	}
	return s, nil
}

// newTerminal makes the streams of a pod with a terminal, whose master comes
// later by setMaster. Relayed is as in Record.
func newTerminal(log *logWriter, relayed bool) *streams {
	return &streams{log: log, relayed: relayed, clients: map[net.Conn]struct{}{}}
}

// identities is how CRIU names the files that the pod has for its streams.
func (s *streams) identities() [3]string { return s.names }

func nameOf(f *os.File) string {
	var name string
	withFd(f, func(fd int) {
		var st unix.Statx_t
		err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_MNT_ID, &st)
		switch {
		case err != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFIFO:
			name = fmt.Sprintf("pipe:[%d]", st.Ino)
		default:
			name = criu.FileName(st.Mnt_id, st.Ino)
		}
	})
	return name
}

// setMaster takes the terminal's master and begins to read it.
func (s *streams) setMaster(master *os.File) error {
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		return fmt.Errorf("terminal master: %w", err)
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("terminal master: %w", err)
	}
	master.Close()
	own := os.NewFile(uintptr(fd), "pty-master")
	s.mu.Lock()
	s.master, s.input = own, own
	s.mu.Unlock()
	s.read(own, "stdout", FrameStdout)
	return nil
}

// start closes the pod's ends, which the pod has by now, and begins to read the pipes.
func (s *streams) start() {
	for i, f := range s.child {
		if f != nil {
			f.Close()
			s.child[i] = nil
		}
	}
	for i, f := range s.outputs {
		if f == nil {
			continue
		}
		s.read(f, []string{"stdout", "stderr"}[i], []byte{FrameStdout, FrameStderr}[i])
	}
}

func (s *streams) read(f *os.File, stream string, kind byte) {
	s.readers.Add(1)
	go func() {
		defer s.readers.Done()
		buf := make([]byte, 32<<10)
		for {
			n, err := f.Read(buf)
			if n > 0 {
				s.deliver(stream, kind, buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
}

func (s *streams) deliver(stream string, kind byte, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.log.write(stream, data) // a full disk must not stop the pod
	if s.relayed && s.cooked() {
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	for part := range slices.Chunk(data, frameMax) {
		s.sendLocked(kind, part)
	}
}

// cooked says whether the terminal processes what the pod writes: then a
// newline begins a new line, and a client's raw terminal has to be told so.
func (s *streams) cooked() (yes bool) {
	withFd(s.master, func(fd int) {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		yes = err == nil && t.Oflag&unix.OPOST != 0 && t.Oflag&unix.ONLCR == 0
	})
	return yes
}

// sendLocked hands a frame to every attached client; one that does not read is let go.
func (s *streams) sendLocked(kind byte, data []byte) {
	for c := range s.clients {
		c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if WriteFrame(c, kind, data) != nil {
			delete(s.clients, c)
			c.Close()
		}
	}
}

// end sends the last frame to all clients and closes them.
func (s *streams) end(kind byte, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(kind, data)
	for c := range s.clients {
		c.Close()
	}
	s.clients = map[net.Conn]struct{}{}
}

func (s *streams) attach(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c] = struct{}{}
}

func (s *streams) detach(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	c.Close()
}

// write sends bytes to the pod's standard input; none closes it.
func (s *streams) write(data []byte) error {
	s.mu.Lock()
	input, tty := s.input, s.master != nil
	if len(data) == 0 && !tty {
		s.input = nil
	}
	s.mu.Unlock()
	switch {
	case input == nil:
		return nil
	case len(data) == 0 && !tty:
		return input.Close()
	}
	_, err := input.Write(data)
	return err
}

// resize tells the terminal its size.
func (s *streams) resize(rows, columns uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return nil
	}
	var err error
	withFd(s.master, func(fd int) {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return err
}

// size asks the terminal its size; zero without a terminal.
func (s *streams) size() (rows, columns uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return 0, 0
	}
	withFd(s.master, func(fd int) {
		if w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			rows, columns = w.Row, w.Col
		}
	})
	return rows, columns
}

// withFd calls f with the file's descriptor, without making the file blocking
// as Fd does.
func withFd(file *os.File, f func(fd int)) {
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// drain waits, at most for the time given, until everything that the pod has
// written is in the log, and returns the log's size. The pod is frozen by now.
func (s *streams) drain(limit time.Duration) int64 {
	s.mu.Lock()
	files := append(s.outputs[:len(s.outputs):len(s.outputs)], s.master)
	s.mu.Unlock()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		waiting := 0
		for _, f := range files {
			if f == nil {
				continue
			}
			withFd(f, func(fd int) {
				if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
					waiting += n
				}
			})
		}
		if waiting == 0 {
			break
		}
	}
	s.mu.Lock() // a delivery under way ends first
	defer s.mu.Unlock()
	return s.log.sync()
}

// waitOutput waits, at most a second, until everything that the pod has
// written is delivered: a process outside the pod may still hold an end.
func (s *streams) waitOutput() {
	done := make(chan struct{})
	go func() { s.readers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// close ends everything; the readers end with their files.
func (s *streams) close() {
	s.mu.Lock()
	for _, f := range append(append(s.child[:], s.outputs[:]...), s.input, s.master) {
		if f != nil {
			f.Close()
		}
	}
	s.input, s.master, s.outputs, s.child = nil, nil, [2]*os.File{}, [3]*os.File{}
	for c := range s.clients {
		c.Close()
	}
	s.mu.Unlock()
	s.readers.Wait()
}
