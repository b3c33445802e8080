package cgroup

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const usr1 = unix.SIGUSR1

// TestMain can be the other process of TestSignalSparesTheCaller: it signals a group and lives to tell.
func TestMain(m *testing.M) {
	if path := os.Getenv("ZAP_TEST_SIGNAL_GROUP"); path != "" {
		c, err := Load(path)
		if err == nil {
			err = c.Signal(unix.SIGTERM)
		}
		if err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString("alive")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestSignalSparesTheCaller: in a pid namespace of its own the caller sees the group's processes as 0, and a signal to 0 would
// be one to itself and its own process group.
func TestSignalSparesTheCaller(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		start(t, c, "read x")
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "ZAP_TEST_SIGNAL_GROUP="+c.Path())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setpgid: true}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Equal(out, []byte("alive")) {
			t.Errorf("the caller: %v, %q", err, out)
		}
		if got := procs(t, c); len(got) != 1 {
			t.Errorf("%v are in the group", got)
		}
	})
}
