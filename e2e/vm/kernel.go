package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is a stock Debian kernel in the cache.
type Kernel struct {
	Suite   string // Debian's, for example trixie-backports
	Release string // as uname -r has it
	image   string // path of vmlinuz
	modules string // path of a cpio archive with the modules in /modules, in the order to load them
}

// The suites whose kernels the tests use, by age: Linux 6.1, 6.12 and the newest there is.
const (
	Oldstable = "bookworm"
	Stable    = "trixie"
	Newest    = "trixie-backports"
)

// kernelPackage is Debian's newest kernel for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// wantedModules is what machines and pods may need. Guests load all of them when they boot: nothing there loads on demand.
var wantedModules = strings.Fields(`
	virtio_pci virtio_blk virtio_net virtio_rng crc32c crc32c_generic crc32c_intel ext4
	overlay fuse loop veth bridge macvlan ipvlan dummy tun vxlan ifb
	nf_tables nf_conntrack nf_conntrack_netlink nft_ct nft_nat nft_masq nft_chain_nat nft_reject_inet nft_reject_ipv4 nft_limit nft_log nft_compat
	nft_fib_inet ip_tables iptable_filter ip6_tables ip6table_filter xt_mark xt_conntrack xt_tcpudp xt_comment
	inet_diag tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag af_packet
	sch_ingress sch_netem sch_tbf cls_u32 cls_matchall cls_bpf act_mirred act_gact nf_dup_netdev nft_dup_netdev nft_fwd_netdev
`)

// kernel gets the suite's kernel.
func (c *cache) kernel(ctx context.Context, suite string) (*Kernel, error) {
	suites := []string{suite}
	if base, _, backports := strings.Cut(suite, "-backports"); backports {
		suites = append(suites, base)
	}
	a, err := c.openArchive(ctx, suites...)
	if err != nil {
		return nil, err
	}
	files, err := a.resolve(ctx, kernelPackage)
	if err != nil {
		return nil, err
	}
	release := ""
	// Since Linux 7 the image's package is empty and its parts are packages of their own.
	files = slices.DeleteFunc(files, func(f debFile) bool {
		part, found := false, ""
		for _, prefix := range []string{"linux-image-", "linux-binary-", "linux-modules-", "linux-base-"} {
			if rest, ok := strings.CutPrefix(f.name, prefix); ok && rest[0] >= '0' && rest[0] <= '9' {
				part, found = true, rest
			}
		}
		if part {
			release = found
		}
		return !part
	})
	if release == "" {
		return nil, fmt.Errorf("find the kernel of %s: %s depends on none", suite, kernelPackage)
	}
	recipe := "kernel 2 " + strings.Join(wantedModules, " ")
	dir, err := c.get("kernel-"+release+"-"+key(recipe, files), func(dir string) error { return c.makeKernel(ctx, a, files, release, dir) })
	if err != nil {
		return nil, err
	}
	return &Kernel{Suite: suite, Release: release, image: dir + "/vmlinuz", modules: dir + "/modules.cpio"}, nil
}

// makeKernel unpacks the packages and takes what is needed out of them.
func (c *cache) makeKernel(ctx context.Context, a *archive, files []debFile, release, dir string) error {
	tree := filepath.Join(dir, "tree")
	if err := a.unpack(ctx, files, tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	modules := tree + "/usr/lib/modules/" + release
	if _, err := os.Stat(modules); err != nil { // older packages
		modules = tree + "/lib/modules/" + release
	}
	err := os.Rename(tree+"/boot/vmlinuz-"+release, dir+"/vmlinuz")
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(modules+"/vmlinuz", dir+"/vmlinuz")
	}
	if err != nil {
		return err
	}
	ordered, missing, err := orderModules(ctx, modules, wantedModules)
	if err != nil {
		return err
	}
	c.said("Linux %s: %d modules; not there: %s", release, len(ordered), strings.Join(missing, " "))
	out, err := os.Create(dir + "/modules.cpio")
	if err != nil {
		return err
	}
	defer out.Close()
	w := newCpio(out)
	w.dir("modules")
	for i, m := range ordered {
		w.file(fmt.Sprintf("modules/%03d-%s.ko", i, m.name), m.data)
	}
	return w.close()
}

// module is a kernel module, unpacked.
type module struct {
	name string // with underscores
	data []byte
}

// orderModules answers with the wanted modules and all they depend on, each behind what it depends on, and with the names of those that
// the kernel has neither as module nor built in.
func orderModules(ctx context.Context, dir string, wanted []string) (ordered []module, missing []string, err error) {
	paths, err := modulePaths(dir)
	if err != nil {
		return nil, nil, err
	}
	builtin, err := os.ReadFile(dir + "/modules.builtin")
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		seen[moduleName(strings.TrimSpace(line))] = true
	}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		if paths[name] == "" {
			missing = append(missing, name)
			return nil
		}
		data, err := readModule(ctx, paths[name])
		if err != nil {
			return err
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("read %s: %w", paths[name], err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		ordered = append(ordered, module{name: name, data: data})
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, nil, err
		}
	}
	return ordered, missing, nil
}

// modulePaths finds every module below dir by its name.
func modulePaths(dir string) (map[string]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			paths[moduleName(path)] = path
		}
		return err
	})
	return paths, err
}

// moduleName is the name that the kernel has for a module's file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module, compressed or not.
func readModule(ctx context.Context, path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		out, err := command(ctx, "", "xz", "-dc", path)
		return []byte(out), err
	case ".zst":
		out, err := command(ctx, "", "zstd", "-qdc", path)
		return []byte(out), err
	default:
		return os.ReadFile(path)
	}
}

// moduleDepends is the modules that a module names in its own description (.modinfo, "depends=" and the softer "softdep=pre:").
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var names []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			names = append(names, strings.Split(list, ",")...)
		}
		if list, ok := strings.CutPrefix(entry, "softdep=pre:"); ok {
			list, _, _ = strings.Cut(list, "post:")
			names = append(names, strings.Fields(list)...)
		}
	}
	for i := range names {
		names[i] = moduleName(names[i])
	}
	return names, nil
}
