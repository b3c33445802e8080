package nofile_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/runtime/boot/nofile"
)

// TestOriginal starts itself with a low limit, which the Go runtime raises at once.
func TestOriginal(t *testing.T) {
	if os.Getenv("NOFILE_CHILD") != "" {
		soft, hard := nofile.Original()
		if soft != 123 || hard != 456 {
			t.Fatalf("Original() = %d, %d, want 123, 456", soft, hard)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `ulimit -Sn 123 && ulimit -Hn 456 && exec "$0" -test.run '^TestOriginal$'`, exe)
	cmd.Env = append(os.Environ(), "NOFILE_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}
