package vm

import (
	"bytes"
	"strings"
	"time"

	"github.com/zap-migrate/zap/e2e/vm/remote"
)

// logsTimeout bounds how long a machine is asked after a test that failed.
const logsTimeout = time.Minute

// logsScript prints what says why a test failed: what zap keeps of its pods (their state, journals of moves, logs, CRIU's among them), the
// processes, and the end of what the kernel said.
const logsScript = `
cd /var/lib/zap && for f in */journal */*log* .criu/*log* .failed/*log*; do
	if test -f "$f"; then echo "== $f"; tail -c 8192 "$f"; echo; fi
done
echo "== pods"; zap pod list; zap list
echo "== processes"; ps -eo pid,ppid,stat,wchan:20,args --cols 160 | grep -v '\['
echo "== dmesg"; dmesg | tail -n 60
`

// printLogs shows what a machine that is on knows about a failure, and the end of its console.
func (m *Machine) printLogs() {
	if m.On() {
		var out bytes.Buffer
		_, err := m.Run(logsTimeout, remote.Request{Args: []string{"sh", "-c", logsScript}}, remote.Streams{Stdout: &out, Stderr: &out})
		m.t.Logf("%s, asked why (%v):\n%s", m.Name, err, strings.TrimSpace(out.String()))
	}
	m.t.Logf("the console of %s ends with: %s", m.Name, m.console())
}
