package vm

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

func TestZzHold(t *testing.T) {
	l := NewLab(t)
	s := Spec{Name: "hold", Kernel: l.Kernel(firstOf(os.Getenv("ZAP_VM_SUITE"), Stable)), Cgroup: os.Getenv("ZAP_VM_CGROUP"), Memory: 2048}
	m := l.Boot(s)
	m.Copy(repositoryFiles(t, l), "/srv/zap")
	stop := os.Getenv("ZAP_VM_STOP")
	script := "#!/bin/sh\nexec nsenter --net=" + l.Switch().Path() + " -- " + l.agent + " exec " + m.commandAddr() + " -- \"$@\"\n"
	os.WriteFile(stop+".run", []byte(script), 0o755)
	os.WriteFile(stop+".copy", []byte(fmt.Sprintf("#!/bin/sh\n# copy FROM-FILE TO\ntar -C $(dirname $1) -c --transform \"s|^.*$|$(basename $2)|\" $(basename $1) | %s.run tar -C $(dirname $2) -x\n", stop)), 0o755)
	secs, _ := strconv.Atoi(firstOf(os.Getenv("ZAP_VM_HOLD"), "800"))
	for end := time.Now().Add(time.Duration(secs) * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := os.Stat(stop); err == nil {
			return
		}
	}
}
