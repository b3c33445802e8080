package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cacheDir = "/var/cache/zap-vm"
	unusedIn = 7 * 24 * time.Hour // what was not used for so long is removed
	lockWait = 15 * time.Minute   // how long another run may build
)

// cache is a directory of things that take long to build, each named by what went into it.
type cache struct {
	dir  string
	lock *os.File
	said func(format string, args ...any)
}

// openCache opens the cache and keeps every other run out of it until it is closed.
func openCache(ctx context.Context, said func(format string, args ...any)) (*cache, error) {
	c := &cache{dir: os.Getenv("ZAP_VM_CACHE"), said: said}
	if c.dir == "" {
		c.dir = cacheDir
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if c.lock, err = os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(100 * time.Millisecond) {
		err = unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) || ctx.Err() != nil {
			c.lock.Close()
			return nil, fmt.Errorf("lock %s: %w", c.lock.Name(), errors.Join(err, ctx.Err()))
		}
	}
}

func (c *cache) close() { c.lock.Close() }

// get answers with the directory of that name, which build fills when it is not there.
func (c *cache) get(name string, build func(dir string) error) (string, error) {
	dir := filepath.Join(c.dir, name)
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		return dir, os.Chtimes(dir, now, now)
	}
	begin := time.Now()
	temp, err := os.MkdirTemp(c.dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	if err := build(temp); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	now := time.Now() // an unpacked package gives the directory its own time, and sweep goes by it
	if err := errors.Join(os.Chmod(temp, 0o755), os.Chtimes(temp, now, now), os.Rename(temp, dir)); err != nil {
		return "", err
	}
	c.said("made %s in %.0f s", name, time.Since(begin).Seconds())
	return dir, nil
}

// sweep removes what was not used for a while, and what a run that died was making.
func (c *cache) sweep() {
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || e.Name() == "apt" || !e.IsDir() {
			continue
		}
		if strings.HasPrefix(e.Name(), ".new-") || time.Since(info.ModTime()) > unusedIn {
			os.RemoveAll(filepath.Join(c.dir, e.Name()))
		}
	}
}
