// Package stream is the wire between two zap peers: frames on a connection, and directory trees in frames.
//
// It is a leaf and knows nothing of pods or containers. A [Conn] carries typed frames with bounded lengths over any [net.Conn];
// [Send] and [Receive] move a directory tree, or the difference of two states of one, through such a connection and keep everything a
// file system knows about it. PROTOCOL.md beside this file specifies every byte.
//
// What a peer sends is taken for hostile: lengths are checked before memory is allocated, names before they are used, and every path is
// resolved on descriptors strictly beneath the receiving directory.
package stream
