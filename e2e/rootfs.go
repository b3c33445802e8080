package e2e

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Rootfs is a root file system with just what some programs of this machine need.
type Rootfs struct {
	dir  string
	have map[string]bool
}

var (
	rootfs      = map[string]string{}
	rootfsMutex sync.Mutex
	libraryPath = regexp.MustCompile(`(?:=> )?(/[^ ]+) \(0x`)
)

// MakeRootfs makes the root file system of that name, once in a run, with a function that fills it. It skips the test when
// the function says that a program is not installed.
func MakeRootfs(t testing.TB, name string, fill func(*Rootfs) error) string {
	t.Helper()
	rootfsMutex.Lock()
	defer rootfsMutex.Unlock()
	dir := filepath.Join(Scratch(t), "rootfs-"+name)
	if rootfs[name] != "" {
		return dir
	}
	r := &Rootfs{dir: dir, have: map[string]bool{}}
	err := r.skeleton()
	if err == nil {
		err = fill(r)
	}
	if err != nil {
		os.RemoveAll(dir)
		t.Fatalf("make root file system for %s: %v (make deps installs what the tests need)", name, err)
	}
	rootfs[name] = dir
	return dir
}

func (r *Rootfs) skeleton() error {
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var/log"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} { // as Debian has it
		if err := os.Symlink("usr/"+d, filepath.Join(r.dir, d)); err != nil {
			return err
		}
	}
	if err := r.mkdir("/tmp", 0o777|fs.ModeSticky, 0); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
		"/etc/group":         "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/inputrc":       "set bell-style none\nset enable-bracketed-paste off\n",
	} {
		if err := r.write(name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rootfs) path(name string) string { return filepath.Join(r.dir, name) }

func (r *Rootfs) mkdir(name string, mode fs.FileMode, owner int) error {
	if err := os.MkdirAll(r.path(name), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(r.path(name), mode); err != nil {
		return err
	}
	return os.Chown(r.path(name), owner, owner)
}

func (r *Rootfs) write(name, text string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(r.path(name), []byte(text), mode)
}

// program copies a program, by path or by name, with the libraries that it loads.
func (r *Rootfs) program(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := r.file(path); err != nil {
		return err
	}
	return r.libraries(path)
}

func (r *Rootfs) libraries(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out := execute(ctx, exec.CommandContext(ctx, "ldd", path))
	if out.Err != nil {
		if strings.Contains(out.Stdout+out.Stderr, "not a dynamic executable") || strings.Contains(out.Stdout, "statically linked") {
			return nil
		}
		return fmt.Errorf("ldd %s: %v", path, out)
	}
	for _, m := range libraryPath.FindAllStringSubmatch(out.Stdout, -1) {
		if err := r.file(m[1]); err != nil {
			return err
		}
	}
	return nil
}

// file copies one file to the same path, through symbolic links.
func (r *Rootfs) file(path string) error { return r.fileAs(path, path) }

func (r *Rootfs) fileAs(path, as string) error {
	if r.have[as] {
		return nil
	}
	r.have[as] = true
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.path(as)), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(r.path(as), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}

// tree copies a directory to the same path.
func (r *Rootfs) tree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		return r.file(path)
	})
}

// busybox installs busybox under the names of all its applets that aren't taken.
func (r *Rootfs) busybox() error {
	if err := r.program("busybox"); err != nil {
		return err
	}
	path, _ := exec.LookPath("busybox")
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out := execute(ctx, exec.CommandContext(ctx, path, "--list"))
	if out.Err != nil {
		return out.Err
	}
	for s := bufio.NewScanner(strings.NewReader(out.Stdout)); s.Scan(); {
		link := r.path("/bin/" + s.Text())
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink(path, link); err != nil {
			return err
		}
	}
	return nil
}

// RedisRootfs has a redis-server.
func RedisRootfs(t testing.TB) string {
	return MakeRootfs(t, "redis", func(r *Rootfs) error { return r.program("redis-server") })
}

// ProgramRootfs has one program of this machine's, as /bin/NAME.
func ProgramRootfs(t testing.TB, name, path string) string {
	return MakeRootfs(t, name, func(r *Rootfs) error { return r.fileAs(path, "/bin/"+name) })
}

// RedisArgs start a redis that only memory makes interesting.
func RedisArgs() []string {
	path, _ := exec.LookPath("redis-server")
	return []string{path, "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"}
}

// downloadSize is the size of the file that nginx serves.
const downloadSize = 200 << 20

// NginxRootfs has an nginx and a file of size bytes, /srv/big. It answers with that file's sha256 too.
func NginxRootfs(t testing.TB, size int64) (dir, sum string) {
	dir = MakeRootfs(t, fmt.Sprintf("nginx-%d", size), func(r *Rootfs) error {
		for _, step := range []func() error{
			func() error { return r.program("/usr/sbin/nginx") },
			func() error { return r.mkdir("/var/lib/nginx", 0o755, 0) },
			func() error { return r.mkdir("/var/log/nginx", 0o755, 0) },
			func() error { return r.write("/etc/nginx.conf", nginxConfig, 0o644) },
			func() error { return r.write("/srv/small", "still here\n", 0o644) },
			func() error { return writeNoise(r.path("/srv/big"), size) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	f, err := os.Open(filepath.Join(dir, "srv/big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		t.Fatal(err)
	}
	return dir, hex.EncodeToString(hash.Sum(nil))
}

const nginxConfig = `daemon off;
worker_processes 2;
user nobody nogroup;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_timeout 3600s;
  send_timeout 3600s;
  sendfile on;
  server { listen 80; listen [::]:80; root /srv; default_type application/octet-stream; }
}
`

// writeNoise writes bytes that don't compress and are the same every time.
func writeNoise(path string, size int64) error {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	zeros, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	defer zeros.Close()
	noise := cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, aes.BlockSize)), R: zeros}
	_, err = io.CopyN(f, noise, size)
	return err
}

// postgresUser is who the database runs as, on the way into the root file system and in the pod.
const postgresUser = 1000

// PostgresRootfs has a PostgreSQL with an empty cluster in /data, and answers with the path of the server too.
func PostgresRootfs(t testing.TB) (dir, server string) {
	bins := newestPostgres(t)
	dir = MakeRootfs(t, "postgres", func(r *Rootfs) error {
		share := strings.Replace(filepath.Dir(bins), "/lib/", "/share/", 1)
		for _, step := range []func() error{
			func() error { return r.program(filepath.Join(bins, "postgres")) },
			func() error { return r.tree(filepath.Join(filepath.Dir(bins), "lib")) },
			func() error { return r.tree(share) },
			func() error { return r.tree("/usr/share/zoneinfo/Etc") },
			func() error { return r.file("/usr/share/zoneinfo/UTC") },
			func() error { return r.mkdir("/data", 0o700, postgresUser) },
			func() error { return r.mkdir("/home", 0o755, postgresUser) },
			func() error { return initCluster(bins, r.path("/data")) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	return dir, filepath.Join(bins, "postgres")
}

func newestPostgres(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		t.Fatal("no PostgreSQL below /usr/lib/postgresql (make deps installs it)")
	}
	return filepath.Dir(found[len(found)-1])
}

func initCluster(bins, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bins, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: postgresUser, Gid: postgresUser}}
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "TZ=UTC"}
	if r := execute(ctx, cmd); r.Err != nil {
		return fmt.Errorf("initdb: %v", r)
	}
	for name, text := range map[string]string{
		"pg_hba.conf":          "host all all all trust\n",
		"postgresql.auto.conf": "listen_addresses='*'\nunix_socket_directories='/tmp'\nshared_buffers=32MB\nlog_timezone=UTC\ntimezone=UTC\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ShellRootfs has a bash, a vi, busybox's applets for the rest, and the survivor.
func ShellRootfs(t testing.TB) string {
	survivor := build(t, "survivor", modulePath+"/e2e/testdata/survivor")
	return MakeRootfs(t, "shell", func(r *Rootfs) error {
		for _, p := range []string{"bash", "vim.tiny"} {
			if err := r.program(p); err != nil {
				return err
			}
		}
		if err := os.Symlink("vim.tiny", r.path("/bin/vi")); err != nil {
			return err
		}
		if _, err := os.Stat("/lib/terminfo"); err == nil {
			for _, entry := range []string{"l/linux", "x/xterm", "v/vt100"} {
				if err := r.file("/lib/terminfo/" + entry); err != nil {
					return err
				}
			}
		}
		if err := r.fileAs(survivor, "/bin/survivor"); err != nil {
			return err
		}
		return r.busybox()
	})
}
