package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/spec"
)

// TestTrial has a CRIU on the source that starts and can't dump: the move is refused before the pod is frozen.
func TestTrial(t *testing.T) {
	tr := newTrip(t)
	real, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Skip(err)
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip(err)
	}
	lame := tr.Path("lame-criu")
	script := "#!/bin/sh\nexec " + setpriv + " --bounding-set=-sys_ptrace " + real.Path + ` "$@"` + "\n"
	if err := os.WriteFile(lame, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	env := criu.EnvBinary + "=" + lame

	pod := Pod{Name: tr.PodName("redis"), Rootfs: RedisRootfs(t), Number: 50, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", 5*time.Millisecond)
	for range 2 { // a failure is not kept for a success
		move := tr.alpha.StartMove(t, pod.Name, tr.beta, MoveOptions{Env: []string{env}})
		if r := move.Wait(); r.Code != 3 || !strings.Contains(move.Final.Raw, `"code":"`+spec.BlockCRIU+`"`) || !strings.Contains(move.Final.Raw, "can't dump on Linux") {
			t.Fatalf("the move was not refused for its CRIU: %v", r)
		}
		for _, e := range move.Events {
			if e.Phase != "" {
				t.Errorf("the move began: %s", e.Raw)
			}
		}
		counter.WantProgress(t)
	}
	tr.alpha.Migrate(t, pod.Name, tr.beta) // with a CRIU that works
	counter.WantProgress(t)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
}
