package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The suites that guests' CRIU may come from, by version. The first is the userland's own.
const (
	CriuStable   = "trixie"       // 4.1.1
	CriuTesting  = "forky"        // 4.2.1
	CriuUpcoming = "experimental" // 4.3
)

// userland is what guests have, beside libraries: the programs that zap's tests start and a person would look for.
var userland = strings.Fields(`
	base-files base-passwd passwd libc-bin bash dash coreutils findutils grep sed gawk tar gzip hostname util-linux mount procps psmisc kmod
	iproute2 nftables iptables ethtool iputils-ping iputils-arping socat netcat-openbsd tcpdump strace
	criu runc crun busybox-static redis-server redis-tools nginx-light python3-minimal vim-tiny jq
	apparmor uidmap systemd e2fsprogs
`)

// imageSize is the root disk's size in mkfs.ext4's words; the file is sparse.
const imageSize = "2G"

// image gets the root disk, the same for all machines.
func (c *cache) image(ctx context.Context) (string, error) {
	a, err := c.openArchive(ctx, Stable)
	if err != nil {
		return "", err
	}
	files, err := a.resolve(ctx, userland...)
	if err != nil {
		return "", err
	}
	crius := map[string][]debFile{}
	all := files
	archives := map[string]*archive{}
	for suite, more := range map[string][]string{CriuTesting: nil, CriuUpcoming: {"sid"}} {
		if archives[suite], err = c.openArchive(ctx, append([]string{suite}, more...)...); err != nil {
			return "", err
		}
		if crius[suite], err = archives[suite].resolve(ctx, "criu"); err != nil {
			return "", err
		}
	}
	all = append(append(all, crius[CriuTesting]...), crius[CriuUpcoming]...)
	dir, err := c.get("root-"+Stable+"-"+key("root 4 "+imageSize, all), func(dir string) error {
		tree := filepath.Join(dir, "tree")
		defer os.RemoveAll(tree)
		if err := a.unpack(ctx, files, tree); err != nil {
			return err
		}
		for suite, files := range crius {
			if err := unpackCriu(ctx, archives[suite], files, tree, "/opt/criu/"+suite); err != nil {
				return err
			}
		}
		if err := finishTree(tree); err != nil {
			return err
		}
		_, err := command(ctx, "", "mkfs.ext4", "-q", "-F", "-L", "root", "-O", "^has_journal", "-m", "0",
			"-E", "lazy_itable_init=1,root_owner=0:0", "-d", tree, dir+"/root.ext4", imageSize)
		return err
	})
	return dir + "/root.ext4", err
}

// unpackCriu puts a CRIU with its own libraries at prefix in the tree, and tells its binary to load them from there.
func unpackCriu(ctx context.Context, a *archive, files []debFile, tree, prefix string) error {
	unpacked := tree + prefix + "/unpacked"
	if err := a.unpack(ctx, files, unpacked); err != nil {
		return err
	}
	defer os.RemoveAll(unpacked)
	binary, lib := tree+prefix+"/sbin/criu", tree+prefix+"/lib"
	for _, d := range []string{filepath.Dir(binary), lib} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Rename(unpacked+"/usr/sbin/criu", binary); err != nil {
		return err
	}
	libraries, err := filepath.Glob(unpacked + "/usr/lib/x86_64-linux-gnu/*.so*")
	if err != nil {
		return err
	}
	for _, l := range libraries {
		if err := os.Rename(l, filepath.Join(lib, filepath.Base(l))); err != nil {
			return err
		}
	}
	// An RPATH, unlike a RUNPATH, also holds for the libraries' own libraries.
	_, err = command(ctx, "", "patchelf", "--set-interpreter", prefix+"/lib/ld-linux-x86-64.so.2", "--force-rpath", "--set-rpath", prefix+"/lib", binary)
	return err
}

// finishTree does what the packages' scripts would have done and guests need, and removes what they never read.
func finishTree(tree string) error {
	for _, dir := range []string{"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion"} {
		if err := os.RemoveAll(filepath.Join(tree, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"data", "dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lib/zap", "root", "usr/local/lib/zap", "etc/zap", "srv"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	for link, to := range map[string]string{
		"usr/bin/sh": "dash", "usr/bin/awk": "gawk", "usr/bin/vi": "vim.tiny", "usr/bin/nc": "nc.openbsd",
		"usr/sbin/iptables": "xtables-nft-multi", "usr/sbin/ip6tables": "xtables-nft-multi",
		"usr/sbin/iptables-restore": "xtables-nft-multi", "usr/sbin/ip6tables-restore": "xtables-nft-multi",
		"usr/sbin/iptables-save": "xtables-nft-multi", "usr/sbin/ip6tables-save": "xtables-nft-multi",
		"usr/local/lib/zap/criu": "/run/criu", // process 1 says which it is
	} {
		if _, err := os.Lstat(filepath.Join(tree, link)); err == nil {
			continue
		}
		if err := os.Symlink(to, filepath.Join(tree, link)); err != nil {
			return err
		}
	}
	for _, name := range []string{"passwd", "group"} {
		master, err := os.ReadFile(fmt.Sprintf("%s/usr/share/base-passwd/%s.master", tree, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(tree+"/etc/"+name, master, 0o644); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"etc/resolv.conf":   "", // nothing must wait for name service
		"etc/subuid":        "",
		"etc/subgid":        "",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
