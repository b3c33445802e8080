package boot

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// calls are the system calls that programs use.
var calls = [...]name{
	{unix.SYS_ACCEPT4, "accept4"},
	{unix.SYS_CAPSET, "capset"},
	{unix.SYS_CHDIR, "chdir"},
	{unix.SYS_CHROOT, "chroot"},
	{unix.SYS_CLOSE, "close"},
	{unix.SYS_DUP3, "dup3"},
	{unix.SYS_FACCESSAT2, "faccessat2"},
	{unix.SYS_FCHDIR, "fchdir"},
	{unix.SYS_FCHOWN, "fchown"},
	{unix.SYS_FCHOWNAT, "fchownat"},
	{unix.SYS_FCNTL, "fcntl"},
	{unix.SYS_FSCONFIG, "fsconfig"},
	{unix.SYS_FSETXATTR, "fsetxattr"},
	{unix.SYS_FSMOUNT, "fsmount"},
	{unix.SYS_FSOPEN, "fsopen"},
	{unix.SYS_FSPICK, "fspick"},
	{unix.SYS_FSTAT, "fstat"},
	{unix.SYS_FSTATFS, "fstatfs"},
	{unix.SYS_GETCWD, "getcwd"},
	{unix.SYS_IOCTL, "ioctl"},
	{unix.SYS_IOPRIO_SET, "ioprio_set"},
	{unix.SYS_KEYCTL, "keyctl"},
	{unix.SYS_MKDIRAT, "mkdirat"},
	{unix.SYS_MKNODAT, "mknodat"},
	{unix.SYS_MOUNT, "mount"},
	{unix.SYS_MOUNT_SETATTR, "mount_setattr"},
	{unix.SYS_MOVE_MOUNT, "move_mount"},
	{unix.SYS_OPEN_TREE, "open_tree"},
	{unix.SYS_OPENAT, "openat"},
	{unix.SYS_OPENAT2, "openat2"},
	{unix.SYS_PERSONALITY, "personality"},
	{unix.SYS_PIVOT_ROOT, "pivot_root"},
	{unix.SYS_PRCTL, "prctl"},
	{unix.SYS_PRLIMIT64, "prlimit64"},
	{unix.SYS_RT_SIGACTION, "rt_sigaction"},
	{unix.SYS_SCHED_SETAFFINITY, "sched_setaffinity"},
	{unix.SYS_SCHED_SETATTR, "sched_setattr"},
	{unix.SYS_RECVMSG, "recvmsg"},
	{unix.SYS_SECCOMP, "seccomp"},
	{unix.SYS_SENDMSG, "sendmsg"},
	{unix.SYS_SET_MEMPOLICY, "set_mempolicy"},
	{unix.SYS_SETDOMAINNAME, "setdomainname"},
	{unix.SYS_SETGROUPS, "setgroups"},
	{unix.SYS_SETHOSTNAME, "sethostname"},
	{unix.SYS_SETNS, "setns"},
	{unix.SYS_SETRESGID, "setresgid"},
	{unix.SYS_SETRESUID, "setresuid"},
	{unix.SYS_SETSID, "setsid"},
	{unix.SYS_SOCKET, "socket"},
	{unix.SYS_SYMLINKAT, "symlinkat"},
	{unix.SYS_UMASK, "umask"},
	{unix.SYS_UMOUNT2, "umount2"},
	{unix.SYS_UNLINKAT, "unlinkat"},
	{unix.SYS_UNSHARE, "unshare"},
	{unix.SYS_WRITE, "write"},
}

// callName returns the name of a system call.
func callName(nr uintptr) string {
	for _, c := range calls {
		if c.value == nr {
			return c.text
		}
	}
	return "syscall_" + strconv.FormatUint(uint64(nr), 10)
}
