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
	clients map[net.Conn]*client
	last    []byte // the frame that ended all, once it was sent
	hurried bool   // the output is being drained
	readers sync.WaitGroup
	space   chan struct{} // a client has taken a frame
}

func newStreams(log *logWriter) *streams {
	return &streams{log: log, clients: map[net.Conn]*client{}, space: make(chan struct{}, 1)}
}

// newPipes makes the pipes of a pod without a terminal, for those of its
// streams that are not /dev/null. Unless stdin is wanted, the pod reads an end
// of file at once.
func newPipes(log *logWriter, stdin bool, null [3]bool) (*streams, error) {
	s := newStreams(log)
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
	s := newStreams(log)
	s.relayed = relayed
	return s
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

// read delivers what comes from f until it ends. Taking bytes out of f and
// delivering them is one step for drain.
func (s *streams) read(f *os.File, stream string, kind byte) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	s.readers.Go(func() {
		buf := make([]byte, 32<<10)
		for over := false; !over; {
			s.awaitRoom()
			err := raw.Read(func(fd uintptr) bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				n, err := unix.Read(int(fd), buf)
				if n > 0 {
					s.deliverLocked(stream, kind, buf[:n])
				}
				over = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
				return err != unix.EAGAIN
			})
			over = over || err != nil // f was closed
		}
	})
}

func (s *streams) deliverLocked(stream string, kind byte, data []byte) {
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
	s.hurry(true)
	defer s.hurry(false)
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Microsecond) {
		if size, empty := s.drained(); empty || time.Now().After(end) {
			return size
		}
	}
}

func (s *streams) hurry(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = on
}

// drained returns the log's size and says whether nothing waits to go there.
func (s *streams) drained() (size int64, empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	for _, f := range []*os.File{s.outputs[0], s.outputs[1], s.master} {
		if f == nil {
			continue
		}
		withFd(f, func(fd int) {
			if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
				waiting += n
			}
		})
	}
	return s.log.written(), waiting == 0
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
	files := append(append(s.child[:], s.outputs[:]...), s.input, s.master)
	s.input, s.master, s.outputs, s.child = nil, nil, [2]*os.File{}, [3]*os.File{}
	for conn := range s.clients {
		s.detachLocked(conn)
	}
	s.mu.Unlock()
	for _, f := range files { // a reader may want the lock before it lets go of its file
		if f != nil {
			f.Close()
		}
	}
	s.readers.Wait()
}
