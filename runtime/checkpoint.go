package runtime

import (
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
)

// DumpRequest says how a container is dumped.
type DumpRequest struct {
	Container *Container
	Mounts    *MountPlan
	Images    *os.File  // directory of the metadata images, best on tmpfs
	Pages     int32     // number of the page channel's descriptor in CRIU; negative: pages go to Images
	Freezer   string    // directory of the frozen freezer cgroup
	Leave     bool      // leave the container running
	Streams   [3]string // names of the standard streams that lead outside
}

// DumpOptions maps a container to the options of a CRIU dump.
func DumpOptions(r *DumpRequest) *rpc.CriuOpts {
	state := r.Container.State()
	o := criu.DumpOptions(state.Pid, r.Images, r.Images)
	o.LeaveRunning = proto.Bool(r.Leave)
	if r.Freezer != "" {
		criu.SetFreezer(o, r.Freezer)
	}
	if r.Pages >= 0 {
		criu.SetPageSocket(o, r.Pages)
	}
	for _, m := range r.Mounts.Trees {
		criu.DumpExternalMount(o, m.Target, m.Key)
	}
	for _, m := range r.Mounts.Queues {
		criu.DumpExternalMount(o, m.Target, m.Key)
	}
	for _, m := range r.Mounts.Binds {
		criu.DumpExternalMount(o, m.Target, m.Key)
	}
	for _, name := range r.Streams {
		if strings.HasPrefix(name, "file[") {
			criu.DumpExternalFile(o, name)
		}
	}
	return o
}
