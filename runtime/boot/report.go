package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the message from child to parent.
type report struct {
	op    uint32
	errno int32
}

// Failure is an operation that failed in the child.
type Failure struct {
	// What is what the operation was for, Origin where it was asked for, Call the system call as the program's text shows it.
	What, Origin, Call string
	// Path is set when the kernel refused to execute a program that is there: the path that the specification names it by.
	Path string
	// Index is the operation's place in the program.
	Index int
	// Err is the kernel's answer; ErrNotFound when a program was not found in the directories of PATH.
	Err error
	// Hint says what the user can do; it may be empty.
	Hint string
}

// ErrNotFound is the cause when no directory of PATH has the program.
var ErrNotFound = errors.New("executable file not found in $PATH")

// Error returns for instance "mount tmpfs on /dev/shm: invalid argument (config.json: mounts[3]) in fsconfig(context, FSCONFIG_SET_STRING,
// "size", "big", 0)". What could not be executed is said as other runtimes do, without the call.
func (f *Failure) Error() string {
	text := fmt.Sprintf("%s: %v", f.What, f.Err)
	if f.Origin != "" {
		text += " (" + f.Origin + ")"
	}
	if f.Hint != "" {
		text += "; " + f.Hint
	}
	if call, _, found := strings.Cut(f.Call, "("); found && !strings.HasPrefix(f.What, "exec ") && isCall(call) {
		text += " in " + clip(f.Call)
	}
	return text
}

// isCall says whether a text is the name of a system call.
func isCall(text string) bool {
	return slices.ContainsFunc(calls[:], func(c name) bool { return c.text == text })
}

// clip shortens a call with long arguments.
func clip(call string) string {
	const most = 240
	if len(call) > most {
		return strings.ToValidUTF8(call[:most], "") + "..."
	}
	return call
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Decode reads a message of the program's child: the mark that was reached, or a *Failure.
func (p *Program) Decode(message []byte) (mark string, err error) {
	if len(message) != 8 {
		return "", fmt.Errorf("read report: %d bytes instead of 8", len(message))
	}
	i, errno := binary.NativeEndian.Uint32(message)&(1<<lateShift-1), int32(binary.NativeEndian.Uint32(message[4:]))
	if int(i) >= len(p.Ops) {
		return "", fmt.Errorf("read report: operation %d of %d", i, len(p.Ops))
	}
	op := &p.Ops[i]
	if errno == 0 && op.Mark != "" {
		return op.Mark, nil
	}
	if errno == 0 {
		return op.What, nil
	}
	f := &Failure{What: op.What, Origin: op.Origin, Call: p.callText(op), Index: int(i), Err: unix.Errno(errno)}
	if slices.Contains(op.HintFor, unix.Errno(errno)) {
		f.Hint = op.Hint
	}
	if op.Nr == opFail && unix.Errno(errno) == unix.ENOENT {
		f.Err = ErrNotFound
	}
	if op.Nr == opExec {
		f.Path = namedPath(p.exec.args)
	}
	return "", f
}

// newborn returns the pid in a message about a birth, 0 for any other message.
func (p *Program) newborn(message []byte) int {
	if len(message) != 8 {
		return 0
	}
	i, pid := binary.NativeEndian.Uint32(message), -int32(binary.NativeEndian.Uint32(message[4:]))
	if int(i) >= len(p.Ops) || p.Ops[i].Nr != opBirth || pid <= 0 {
		return 0
	}
	return int(pid)
}

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// receive reads one message and the descriptors that may come with it, two at most. No bytes mean that the other end is closed.
func receive(f *os.File) (data []byte, files [2]*os.File, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, files, err
	}
	buf, control := make([]byte, 16), make([]byte, unix.CmsgSpace(8))
	var n, controls int
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		n, controls, _, _, rerr = unix.Recvmsg(int(fd), buf, control, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err = errors.Join(err, rerr); err != nil {
		return nil, files, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil || len(messages) == 0 {
		return buf[:n], files, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "descriptor of child")
	}
	return buf[:n], files, err
}

// DecodeExec reads a message that a program sent after its gate, where little but the execve of args is left to fail. Unlike Program.Decode it
// needs no program, so that another process than the one that started it can tell what happened.
func DecodeExec(document string, args []string, message []byte) error {
	if len(message) != 8 {
		return fmt.Errorf("read report: %d bytes instead of 8", len(message))
	}
	errno := unix.Errno(binary.NativeEndian.Uint32(message[4:]))
	if f, ok := decodeLate(document, binary.NativeEndian.Uint32(message), errno); ok {
		return f
	}
	return &Failure{
		What: "exec " + strconv.Quote(args[0]), Origin: document + ": process.args", Call: "execve", Err: errno,
		Index: int(binary.NativeEndian.Uint32(message)), Path: namedPath(args),
	}
}

// namedPath is the program of args when that is a path, and empty when it is looked for in PATH.
func namedPath(args []string) string {
	if len(args) == 0 || !strings.Contains(args[0], "/") {
		return ""
	}
	return args[0]
}
