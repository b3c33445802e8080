package network

import (
	"fmt"
	"os"
	"path/filepath"
)

// Abandon lets the namespace end soon once its processes have: a TCP connection
// that is still saying goodbye, to which nobody listens any more, would keep it
// for the minutes that TCP waits for an answer. Such connections end at their
// next timer (tcp_orphan_retries, tcp(7)). It can be repeated.
func (n *Network) Abandon() error {
	return inside(n.ns, func() error {
		for _, name := range []string{"tcp_orphan_retries", "tcp_fin_timeout"} {
			if err := writeSysctl(filepath.Join("/proc/sys/net/ipv4", name), "1"); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
		return nil
	})
}
