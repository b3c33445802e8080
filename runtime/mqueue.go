package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// CRIU opens POSIX message queues like files but carries neither the queues nor
// what is in them (mq_overview(7)). So zap takes both along: it reads them when the pod
// is frozen and makes them in the new IPC namespace before CRIU opens anything.

// Queue is a POSIX message queue of an IPC namespace.
type Queue struct {
	Name     string    `json:"name"` // without the slash
	Mode     uint32    `json:"mode"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	MaxCount int64     `json:"max_count"` // messages
	MaxSize  int64     `json:"max_size"`  // bytes of a message
	Messages []Message `json:"messages,omitempty"`
}

// Message is a message in a queue; those of one queue are in the order in
// which they will be received.
type Message struct {
	Priority uint32 `json:"priority"`
	Data     []byte `json:"data"`
}

// Bounds of what is taken from a peer.
const (
	maxQueues       = 4096
	maxQueueMessage = 16 << 20 // the kernel's HARD_MSGSIZEMAX
)

// mqAttr is struct mq_attr (mq_getattr(3)).
type mqAttr struct {
	flags, maxCount, maxSize, count int64
	_                               [4]int64
}

// SaveQueues reads the message queues of the IPC namespace of pid, whose
// processes are frozen. The only way to see a message is to receive it, so each
// is sent again; the queues are as they were when the call returns.
func SaveQueues(pid int) (queues []Queue, err error) {
	err = inIPC(pid, func(dir int) error {
		names, err := queueNames(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			q, err := saveQueue(dir, name)
			if err != nil {
				return fmt.Errorf("message queue /%s: %w", name, err)
			}
			queues = append(queues, *q)
		}
		return nil
	})
	return queues, err
}

// QueueNames returns the names of the message queues in the IPC namespace of pid, without the slash.
func QueueNames(pid int) (names []string, err error) {
	err = inIPC(pid, func(dir int) (err error) {
		names, err = queueNames(dir)
		return err
	})
	return names, err
}

// RestoreQueues makes message queues in the IPC namespace of pid.
func RestoreQueues(pid int, queues []Queue) error {
	if len(queues) == 0 {
		return nil
	}
	if len(queues) > maxQueues {
		return fmt.Errorf("%d message queues, more than %d", len(queues), maxQueues)
	}
	return inIPC(pid, func(dir int) error {
		for i := range queues {
			if err := restoreQueue(dir, &queues[i]); err != nil {
				return fmt.Errorf("message queue /%s: %w", queues[i].Name, err)
			}
		}
		return nil
	})
}

// mqueueMagic is the file system type of message queues in linux/magic.h.
const mqueueMagic = 0x19800202

// QueueFiles finds the descriptors of message queues among the processes. They
// lead to a mount that no process sees, so CRIU is told that they are external, and the
// images name them by the plan's mqueue mount, which is looked up in the mounts of init.
func QueueFiles(init int, pids []int, plan *MountPlan) ([]criu.Reopened, error) {
	var files []criu.Reopened
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		names, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, n := range names {
			f, ok := queueFile(pid, dir, n.Name())
			if ok && !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	if len(plan.Queues) == 0 {
		return nil, errors.New("message queues are open and no mqueue file system is mounted (mount one on /dev/mqueue)")
	}
	mount, err := mountID(init, plan.Queues[0].Target)
	if err != nil {
		return nil, err
	}
	for i := range files {
		files[i].Mount = mount
		files[i].Path = filepath.Join(plan.Queues[0].Target, files[i].Path)
	}
	return files, nil
}

// queueFile says whether a descriptor is a message queue, and its name.
func queueFile(pid int, dir, number string) (f criu.Reopened, ok bool) {
	path := filepath.Join(dir, number)
	target, err := os.Readlink(path)
	if err != nil || len(target) < 2 || target[0] != '/' || strings.Contains(target[1:], "/") {
		return f, false // mq_open shows /NAME
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(path, &fs) != nil || int64(fs.Type) != mqueueMagic || unix.Stat(path, &st) != nil {
		return f, false
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, number))
	if err != nil {
		return f, false
	}
	var mount int
	for line := range strings.Lines(string(info)) {
		if value, found := strings.CutPrefix(line, "mnt_id:"); found {
			mount, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return criu.Reopened{Key: criu.ExternalFile(mount, st.Ino), Path: target}, true
}

// mountID is the id of the mount on target in the mounts of pid.
func mountID(pid int, target string) (int, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	mounts, err := parseMountInfo(file)
	if err != nil {
		return 0, err
	}
	for _, m := range mounts {
		if m.target == target {
			return m.id, nil
		}
	}
	return 0, fmt.Errorf("nothing is mounted on %s", target)
}

// inIPC calls f on a thread of its own in the IPC namespace of pid, with the
// root of a message queue file system of that namespace.
func inIPC(pid int, f func(dir int) error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	result := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end; another one has to do it.
			go func() { goruntime.LockOSThread(); result <- enterIPC(ns, f) }()
			return
		}
		result <- enterIPC(ns, f)
	}()
	return <-result
}

func enterIPC(ns *os.File, f func(dir int) error) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("enter IPC namespace: %w", err)
	}
	dir, err := detachedMount("mqueue", nil, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(int(dir.Fd()))
}

func queueNames(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("list message queues: %w", err)
	}
	f := os.NewFile(uintptr(fd), "mqueue")
	defer f.Close()
	return f.Readdirnames(-1)
}

// saveQueue reads one queue and fills it again.
func saveQueue(dir int, name string) (*Queue, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	fd, err := openQueue(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0, nil)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var attr mqAttr
	if _, _, errno := unix.Syscall(unix.SYS_MQ_GETSETATTR, uintptr(fd), 0, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return nil, errno
	}
	if attr.count >= attr.maxCount {
		// Who waits to send would be let in when it is emptied, and then there is one message too many.
		return nil, errors.New("it is full, and who waits to send to it can't be carried")
	}
	q := &Queue{Name: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, MaxCount: attr.maxCount, MaxSize: attr.maxSize}
	var failed error
	for range attr.count {
		m, err := receive(fd, attr.maxSize)
		if err != nil {
			failed = err
			break
		}
		q.Messages = append(q.Messages, *m)
	}
	for i := range q.Messages {
		if err := send(fd, &q.Messages[i]); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return q, failed
}

func restoreQueue(dir int, q *Queue) error {
	if q.MaxCount <= 0 || q.MaxSize <= 0 || q.MaxSize > maxQueueMessage || int64(len(q.Messages)) > q.MaxCount {
		return errors.New("its attributes make no sense")
	}
	raise("msg_max", q.MaxCount)
	raise("msgsize_max", q.MaxSize)
	attr := mqAttr{maxCount: q.MaxCount, maxSize: q.MaxSize}
	fd, err := openQueue(q.Name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, q.Mode&0o7777, &attr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(q.UID), int(q.GID)); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(fd, q.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	for i := range q.Messages {
		if err := send(fd, &q.Messages[i]); err != nil {
			return err
		}
	}
	return nil
}

// raise lifts a limit of the namespace that the thread is in; CRIU sets the
// container's own later. If that fails, making the queue says so.
func raise(limit string, to int64) {
	path := "/proc/sys/fs/mqueue/" + limit
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	var now int64
	if _, err := fmt.Sscan(string(data), &now); err == nil && now < to {
		_ = os.WriteFile(path, strconv.AppendInt(nil, to, 10), 0o600)
	}
}

func openQueue(name string, flags int, mode uint32, attr *mqAttr) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(p)), uintptr(flags), uintptr(mode), uintptr(unsafe.Pointer(attr)), 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("open: %w", errno)
	}
	return int(fd), nil
}

func receive(fd int, size int64) (*Message, error) {
	m := &Message{Data: make([]byte, size)}
	n, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDRECEIVE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m.Data))), uintptr(size),
		uintptr(unsafe.Pointer(&m.Priority)), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("receive: %w", errno)
	}
	m.Data = append([]byte(nil), m.Data[:n]...)
	return m, nil
}

func send(fd int, m *Message) error {
	var empty [1]byte
	p := &empty[0]
	if len(m.Data) > 0 {
		p = &m.Data[0]
	}
	_, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDSEND, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(len(m.Data)), uintptr(m.Priority), 0, 0)
	if errno != 0 {
		return fmt.Errorf("send: %w", errno)
	}
	return nil
}
