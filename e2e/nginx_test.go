package e2e

import (
	"testing"
	"time"
)

// TestNginx moves a web server there and back in the middle of a slow download, while others keep connections open.
func TestNginx(t *testing.T) {
	tr := newTrip(t)
	rootfs, sum := NginxRootfs(t, downloadSize)
	pod := Pod{Name: tr.PodName("nginx"), Rootfs: rootfs, Number: 51, Args: []string{"/usr/sbin/nginx", "-c", "/etc/nginx.conf"}}
	tr.alpha.RunPod(t, pod)
	idle := append(KeepAlive(t, tr.client, pod.Addr(80), "/small", 50), KeepAlive(t, tr.client, pod.Addr6(80), "/small", 50)...)
	download := StartDownload(t, tr.client, pod.Addr(80), "/big", 20<<20)

	move := func(from, to *Host, at int64) {
		WaitFor(t, time.Minute, "the download to go on", func() bool { return download.Read() >= at })
		from.Migrate(t, pod.Name, to)
		if got := download.Read(); got == downloadSize {
			t.Error("the download was over before the move was")
		}
		tr.wantOnlyOn(t, to, pod.Name)
	}
	move(tr.alpha, tr.beta, downloadSize/10)
	move(tr.beta, tr.alpha, downloadSize/2)

	if got, size := download.Wait(t); got != sum || size != downloadSize {
		t.Errorf("%d bytes with the sum %s came, not %d with %s", size, got, downloadSize, sum)
	}
	for i, k := range idle {
		if body, err := k.Get("/small"); err != nil || body != "still here\n" {
			t.Errorf("connection %d: %q, %v", i, body, err)
		}
		k.Close()
	}
	KeepAlive(t, tr.client, pod.Addr(80), "/small", 1)[0].Close() // new connections are taken too
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
	tr.wantNothingLeft(t, tr.beta)
}
