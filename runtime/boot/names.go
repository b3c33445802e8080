package boot

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// names maps numbers to the kernel's symbols.
type names struct {
	zero  string // for 0; "0" when empty
	exact bool   // a number has one name, not one per bit
	list  []name
}

type name struct {
	value uintptr
	text  string
}

// format shows n by its symbols.
func (t *names) format(n uintptr) string {
	if n == 0 {
		if t.zero == "" {
			return "0"
		}
		return t.zero
	}
	var out []string
	for _, e := range t.list {
		switch {
		case t.exact && n == e.value:
			return e.text
		case !t.exact && e.value != 0 && n&e.value == e.value:
			out = append(out, e.text)
			n &^= e.value
		}
	}
	if n != 0 {
		out = append(out, "0x"+strconv.FormatUint(uint64(n), 16))
	}
	return strings.Join(out, "|")
}

var (
	namesNull       = &names{zero: "NULL"}
	namesDir        = &names{exact: true, list: []name{{atFDCWD, "AT_FDCWD"}}}
	namesMode       = &names{} // shown in octal
	namesLimit      = &names{} // shown by limitNames
	namesCapability = &names{} // shown by capabilityName

	namesOpen = &names{zero: "O_RDONLY", list: []name{
		{unix.O_DIRECTORY, "O_DIRECTORY"},
		{unix.O_PATH, "O_PATH"},
		{unix.O_RDWR, "O_RDWR"},
		{unix.O_WRONLY, "O_WRONLY"},
		{unix.O_NOFOLLOW, "O_NOFOLLOW"},
		{unix.O_NOCTTY, "O_NOCTTY"},
		{unix.O_CLOEXEC, "O_CLOEXEC"},
	}}
	namesOpenTree = &names{list: []name{
		{unix.OPEN_TREE_CLONE, "OPEN_TREE_CLONE"},
		{unix.AT_RECURSIVE, "AT_RECURSIVE"},
		{unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"},
		{unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"},
	}}
	namesAt = &names{list: []name{
		{unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"},
		{unix.AT_RECURSIVE, "AT_RECURSIVE"},
		{unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
		{unix.AT_EACCESS, "AT_EACCESS"},
	}}
	namesMove = &names{list: []name{
		{unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"},
		{unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"},
		{unix.MOVE_MOUNT_T_SYMLINKS, "MOVE_MOUNT_T_SYMLINKS"},
	}}
	namesFsopen   = &names{list: []name{{unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"}}}
	namesFspick   = &names{list: []name{{unix.FSPICK_CLOEXEC, "FSPICK_CLOEXEC"}, {unix.FSPICK_EMPTY_PATH, "FSPICK_EMPTY_PATH"}}}
	namesFsmount  = &names{list: []name{{unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"}}}
	namesFsconfig = &names{zero: "FSCONFIG_SET_FLAG", exact: true, list: []name{
		{unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"},
		{unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"},
		{unix.FSCONFIG_CMD_RECONFIGURE, "FSCONFIG_CMD_RECONFIGURE"},
	}}
	namesAttr = &names{list: []name{
		{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"},
		{unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"},
		{unix.MOUNT_ATTR__ATIME, "MOUNT_ATTR__ATIME"},
		{unix.MOUNT_ATTR_NOATIME, "MOUNT_ATTR_NOATIME"},
		{unix.MOUNT_ATTR_STRICTATIME, "MOUNT_ATTR_STRICTATIME"},
		{unix.MOUNT_ATTR_NODIRATIME, "MOUNT_ATTR_NODIRATIME"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "MOUNT_ATTR_NOSYMFOLLOW"},
		{unix.MOUNT_ATTR_IDMAP, "MOUNT_ATTR_IDMAP"},
	}}
	namesMount = &names{list: []name{
		{unix.MS_RDONLY, "MS_RDONLY"},
		{unix.MS_REC, "MS_REC"},
		{unix.MS_PRIVATE, "MS_PRIVATE"},
		{unix.MS_SLAVE, "MS_SLAVE"},
		{unix.MS_SHARED, "MS_SHARED"},
		{unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
		{unix.MS_MOVE, "MS_MOVE"},
		{unix.MS_POSIXACL, "MS_POSIXACL"},
		{unix.MS_I_VERSION, "MS_I_VERSION"},
		{unix.MS_SYNCHRONOUS, "MS_SYNCHRONOUS"},
		{unix.MS_DIRSYNC, "MS_DIRSYNC"},
		{unix.MS_LAZYTIME, "MS_LAZYTIME"},
		{unix.MS_MANDLOCK, "MS_MANDLOCK"},
	}}
	namesUmount = &names{list: []name{{unix.MNT_DETACH, "MNT_DETACH"}}}
	namesClone  = &names{list: []name{
		{unix.CLONE_PARENT, "CLONE_PARENT"},
		{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
	}}
	namesPrctl = &names{exact: true, list: []name{
		{unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"},
		{unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"},
		{unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"},
		{unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"},
		{unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"},
	}}
	namesAmbient = &names{exact: true, list: []name{
		{unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"}, {unix.PR_CAP_AMBIENT_CLEAR_ALL, "PR_CAP_AMBIENT_CLEAR_ALL"},
	}}
	namesFcntl = &names{exact: true, list: []name{
		{unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"}, {unix.F_SETFD, "F_SETFD"},
	}}
	namesIoctl = &names{exact: true, list: []name{
		{unix.TIOCSPTLCK, "TIOCSPTLCK"},
		{unix.TIOCGPTPEER, "TIOCGPTPEER"},
		{unix.TIOCSWINSZ, "TIOCSWINSZ"},
		{unix.TIOCSCTTY, "TIOCSCTTY"},
		{unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"},
	}}
	namesAccess = &names{list: []name{{unix.X_OK, "X_OK"}}}
	namesKeyctl = &names{exact: true, list: []name{
		{unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"}, {unix.KEYCTL_SETPERM, "KEYCTL_SETPERM"},
	}}
	namesErrno = &names{exact: true, list: []name{
		{uintptr(unix.ENOENT), "ENOENT"}, {uintptr(unix.EACCES), "EACCES"}, {uintptr(unix.EXDEV), "EXDEV"},
	}}
)

// showString shows a zero-terminated string as C does.
func showString(p unsafe.Pointer) string {
	return strconv.Quote(unix.BytePtrToString((*byte)(p)))
}
