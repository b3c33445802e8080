// Package fulldisk lets tests write to a disk that seems to be full.
package fulldisk
