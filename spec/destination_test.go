package spec_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/zap-migrate/zap/spec"
)

// TestDestinationOnHost has mountpoints that begin with the path of the root file system.
func TestDestinationOnHost(t *testing.T) {
	dir := t.TempDir()
	for destination, want := range map[string]string{
		dir + "/rootfs/mnt/x":       "/mnt/x",
		dir + "/rootfs//proc/../a/": "/a",
		dir + "/rootfs/../b":        dir + "/rootfs/../b",
		dir + "/rootfs2/mnt":        dir + "/rootfs2/mnt",
		dir + "/rootfs":             dir + "/rootfs",
		"/mnt/" + dir + "/rootfs/x": "/mnt/" + dir + "/rootfs/x",
	} {
		config := fmt.Sprintf(`{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{}},
			"mounts":[{"destination":%q,"type":"tmpfs","source":"tmpfs"}]}`, destination)
		if err := os.WriteFile(filepath.Join(dir, spec.ConfigName), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := spec.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Spec.Mounts[0].Destination; got != want {
			t.Errorf("%s became %s, want %s", destination, got, want)
		}
	}
}
