package pod

import (
	"context"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/runtime"
)

// KeepLog keeps the log of a CRIU that has failed in a move of the pod name with the error err, as ROOT/.failed/NAME-MIGRATION.log, which err
// names from then on: what the log lies in is gone when the move has come to its end. See criu.KeepLog.
func KeepLog(ctx context.Context, rt *runtime.Runtime, name, migration string, opts *rpc.CriuOpts, err error) error {
	return criu.KeepLog(ctx, err, opts, filepath.Join(rt.Root(), ".failed"), name+"-"+migration+".log")
}
