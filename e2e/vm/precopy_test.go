package vm

import (
	"testing"

	"github.com/zap-migrate/zap/e2e"
)

// TestSurvivor moves a program that holds one of everything a process can hold to an older kernel, its memory ahead. With it goes one
// that keeps writing to some of its memory: the kernel tracks to what, and rounds after the first look at nothing else.
func TestSurvivor(t *testing.T) {
	l := NewLab(t, "stable", "old")
	machines := l.BootAll(
		Spec{Name: "stable", Kernel: l.Kernel(Stable), Criu: CriuUpcoming},
		Spec{Name: "old", Kernel: l.Kernel(Oldstable), Criu: CriuUpcoming},
	)
	stable, old := machines[0], machines[1]
	pod := e2e.Pod{Name: l.PodName("survivor"), Number: 53, Rootfs: rootfsIn(stable, e2e.ShellRootfs(t), "shell"), Args: []string{"/bin/survivor"}}
	writer := e2e.Pod{
		Name: l.PodName("writer"), Number: 54, Rootfs: rootfsIn(stable, tellerRootfs(t), "teller"),
		Args: []string{"/bin/teller", "-ballast", "40", "-dirty", "40"},
	}
	stable.RunPod(t, pod)
	client := l.NewClient()
	survivor := newSurvivor(t, client, pod.Addr(7000))
	survivor.wantWhole(t, "before the move")
	old.Serve(t)
	stable.Migrate(t, pod.Name, old.Host, "--idle", patience, "--mode", "pre")
	survivor.wantWhole(t, "after the move")

	stable.RunPod(t, writer)
	teller := newListener(t, client, writer.Addr(7100))
	teller.kernels(t)
	final := stable.Migrate(t, writer.Name, old.Host, "--idle", patience) // auto
	teller.kernels(t)
	t.Log(final.Raw)
	if final.Mode != "pre" || final.Tracking != "soft-dirty" || final.Why != "" || len(final.Rounds) < 2 {
		t.Fatalf("the writer's move: %s", final.Raw)
	}
	first, second := final.Rounds[0], final.Rounds[1]
	if first.Clean != 0 || second.Pages == 0 || second.Pages > first.Pages/2 || second.Clean < first.Pages/2 || second.Bytes > first.Bytes/2 {
		t.Errorf("the second round did not go by what the kernel had tracked: %s", final.Raw)
	}
}
