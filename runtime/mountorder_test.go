package runtime

import (
	"path/filepath"
	"testing"
)

// TestSourceBelowRoot binds what earlier mounts have put below the root file system.
func TestSourceBelowRoot(t *testing.T) {
	for _, users := range []bool{false, true} {
		l := newLab(t)
		b := l.bundle("cat /final/x/file")
		b.Spec.Root.Readonly = false
		source := t.TempDir()
		file(t, filepath.Join(source, "a/x/ignored"), "")
		file(t, filepath.Join(source, "b/file"), "b\n")
		if users {
			withUsers(t, b)
		}
		b.Spec.Mounts = append(b.Spec.Mounts,
			bindMount(filepath.Join(source, "a"), "/mnt"),
			bindMount(filepath.Join(source, "b"), "/mnt/x"),
			bindMount(filepath.Join(b.RootPath(), "mnt"), "/final"))
		l.wantOutput(b, "b\n")
	}
}
