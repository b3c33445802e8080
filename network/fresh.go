package network

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Fresh knows the settings of a namespace in which nobody changed anything but what New does. To find them out one has to be made, and
// hundreds of files in it have to be read.
type Fresh struct {
	// File keeps them until the next boot; without a name nothing does.
	File string
}

// bootIDPath changes with each boot.
const bootIDPath = "/proc/sys/kernel/random/boot_id"

// freshFile is what is in the file.
type freshFile struct {
	Boot     string            `json:"boot"`
	Settings map[string]string `json:"settings"`
}

// changed returns those settings of have that a fresh namespace would not have.
//
// What the file says is believed only as long as it explains everything. Some defaults follow the host's own settings (as tcp_rmem does), some come with a
// kernel module: where have differs in any way, a namespace is made and looked at. That leaves one case in which a setting
// is not found: a pod's that was set to what was the default before the host's was changed in the same boot.
func (f Fresh) changed(have map[string]string, link string) (map[string]string, error) {
	boot := ""
	if id, err := os.ReadFile(bootIDPath); err == nil && f.File != "" {
		boot = strings.TrimSpace(string(id))
	}
	if kept := f.load(boot); kept != nil {
		if changed, strange := changedSysctls(have, kept, link); len(changed) == 0 && !strange {
			return nil, nil
		}
	}
	now, err := freshSysctls()
	if err != nil {
		return nil, err
	}
	f.keep(boot, now)
	changed, _ := changedSysctls(have, now, link)
	return changed, nil
}

// load returns what was kept in this boot, or nil.
func (f Fresh) load(boot string) map[string]string {
	if boot == "" {
		return nil
	}
	var kept freshFile
	data, err := os.ReadFile(f.File)
	if err != nil || json.Unmarshal(data, &kept) != nil || kept.Boot != boot {
		return nil
	}
	return kept.Settings
}

// keep writes the settings down. If it can't, they are found out again the next time.
func (f Fresh) keep(boot string, settings map[string]string) {
	if boot == "" {
		return
	}
	data, err := json.Marshal(freshFile{boot, settings})
	dir := filepath.Dir(f.File)
	if err == nil && os.MkdirAll(dir, 0o700) == nil {
		_ = renameio.WriteFile(f.File, data, 0o600, renameio.WithTempDir(dir))
	}
}

// freshSysctls makes a namespace and reads its settings.
func freshSysctls() (map[string]string, error) {
	var fresh map[string]string
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := quietSysctl(mptcpPath, "0"); err != nil {
			return err
		}
		fresh = walkSysctls("lo")
		return nil
	})
	return fresh, err
}

// changedSysctls compares settings with those of a fresh namespace, a link's with what a new link would have. It says whether some are strange.
func changedSysctls(have, fresh map[string]string, link string) (changed map[string]string, strange bool) {
	changed = make(map[string]string)
	own := "." + sysctlComponent(link) + "."
	for name, value := range have {
		base, ok := fresh[name]
		if !ok && strings.Contains(name, ".conf"+own) {
			base, ok = have[strings.Replace(name, own, ".default.", 1)]
		}
		if !ok && strings.Contains(name, ".neigh"+own) { // the defaults of these are the host's only; loopback has them
			base, ok = fresh[strings.Replace(name, own, ".lo.", 1)]
		}
		switch {
		case !ok:
			strange = true
		case base != value:
			changed[name] = value
		}
	}
	return changed, strange
}
