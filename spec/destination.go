package spec

import (
	"path/filepath"
	"strings"
)

// takeRootOff makes mountpoints that are named by their paths on the host, through the root file system, paths of the container. Other
// runtimes understand both.
func (b *Bundle) takeRootOff() {
	root := b.RootPath()
	if root == "" || root == "/" {
		return
	}
	for i := range b.Spec.Mounts {
		m := &b.Spec.Mounts[i]
		if !strings.HasPrefix(m.Destination, root) { // as nearly all
			continue
		}
		if rest, below := strings.CutPrefix(filepath.Clean(m.Destination), root+"/"); below {
			m.Destination = "/" + rest
		}
	}
}
