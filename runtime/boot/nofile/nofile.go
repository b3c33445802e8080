package nofile

// limit is struct rlimit64.
type limit struct{ cur, max uint64 }

var original = ask()

func ask() (l limit) {
	getrlimit(&l)
	return l
}

// getrlimit fills l with RLIMIT_NOFILE; on an error it leaves it as it is.
//
//go:noescape
func getrlimit(l *limit)

// Original returns the soft and the hard limit from before the Go runtime changed it.
func Original() (soft, hard uint64) { return original.cur, original.max }
