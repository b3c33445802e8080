package runtime

import (
	"fmt"
	"os"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
)

// DumpRequest says how a container is dumped.
type DumpRequest struct {
	Container *Container
	Mounts    *MountPlan
	Images    *os.File // directory of the metadata images, best on tmpfs
	Pages     int      // number of the page channel's descriptor in CRIU; negative: pages go to Images
	Freezer   string   // directory of the frozen freezer cgroup
	TTY       bool
	Leave     bool // leave the container running
}

// DumpOptions maps a container to the options of a CRIU dump.
func DumpOptions(r *DumpRequest) (*rpc.CriuOpts, error) {
	state := r.Container.State()
	o := criu.BaseOptions(r.Images)
	o.Pid = proto.Int32(int32(state.Pid))
	o.LogFile = proto.String("dump.log")
	o.LeaveRunning = proto.Bool(r.Leave)
	o.OrphanPtsMaster = proto.Bool(r.TTY)
	if r.Freezer != "" {
		o.FreezeCgroup = proto.String(r.Freezer)
	}
	if r.Pages >= 0 {
		o.Ps = &rpc.CriuPageServerInfo{Fd: proto.Int32(int32(r.Pages))}
	}
	for _, m := range r.Mounts.Trees {
		o.External = append(o.External, fmt.Sprintf("mnt[%s]:%s", m.Target, m.Key))
	}
	for _, m := range r.Mounts.Binds {
		o.External = append(o.External, fmt.Sprintf("mnt[%s]:%s", m.Target, m.Key))
	}
	return o, nil
}
