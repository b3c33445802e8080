package engines

import (
	"archive/tar"
	"errors"
	"os"
	"os/exec"
	"strings"
)

func errorOf(r result) error { return errors.New(r.String()) }

// busyboxTar makes the archive of a root file system of this machine's static busybox.
func busyboxTar() (path string, err error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	r := run(busybox, "--list")
	if r.Code != 0 || r.Err != nil {
		return "", errorOf(r)
	}
	f, err := os.CreateTemp("", "busybox-*.tar")
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(h *tar.Header, content string) {
		h.Size = int64(len(content))
		err = errors.Join(err, w.WriteHeader(h))
		_, werr := w.Write([]byte(content))
		err = errors.Join(err, werr)
	}
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, "")
	}
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, applet := range strings.Fields(r.Stdout) {
		if applet != "busybox" {
			add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, "")
		}
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
	return f.Name(), errors.Join(err, w.Close())
}
