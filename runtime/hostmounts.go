package runtime

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// A container without a mount namespace has its mounts in the runtime's: its root file system on top of itself, and everything else below
// that. So one unmount takes all of it away again.

// inHostMounts says whether a bundle asks for that.
func inHostMounts(b *spec.Bundle) bool {
	return namespaceIndex(b.Spec, specs.MountNamespace, "any") < 0
}

// rootMount returns the number of the mount that is on top at the root file system's path, 0 when the container's mounts are its own.
func rootMount(b *spec.Bundle) uint64 {
	if !inHostMounts(b) {
		return 0
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, b.RootPath(), unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return 0
	}
	return st.Mnt_id
}

// detachRoot takes the container's mounts away, if they are in the runtime's mount namespace and still there.
func detachRoot(b *spec.Bundle, mount uint64) error {
	if mount == 0 || rootMount(b) != mount {
		return nil
	}
	if err := unix.Unmount(b.RootPath(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", b.RootPath(), err)
	}
	return nil
}
