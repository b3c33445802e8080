// Package peer connects hosts that trust each other: it makes the keys they know each other by, listens and dials with TLS
// 1.3 and both sides authenticated, and agrees on the version of the protocol.
//
// What is said on a connection is pod/migrate's matter; PROTOCOL.md beside this file specifies every byte of it.
package peer
