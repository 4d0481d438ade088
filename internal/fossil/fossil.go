// Package fossil makes deltas in the format of the Fossil version control system
// (fossil-scm.org/home/doc/trunk/www/delta_format.wiki), which the Centrifuge client
// protocol uses. Only the encoder is here: clients decode.
//
// The format leaves open how matches are found. Payloads of a channel differ in a few
// places, so what both ends have in common is cut off first, and the middle is matched
// in one pass with one candidate per position: time is linear in the sizes, whatever
// the bytes are.
package fossil

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sync"
)

const (
	// MaxSize is the largest base or target that a delta is made for, in bytes.
	MaxSize = 4 << 20

	blockSize = 8 // bytes that must agree before a match is looked at
	// minMiddle is the length of a differing middle below which it is written as it
	// is: no two copies with a literal between them would be shorter.
	minMiddle = 24
	// maxTable bounds the entries of the table of blocks, 4 bytes each.
	maxTable = 1 << 16
)

// Delta returns the delta that makes target of base, or nil when it would not be
// shorter than target. With text, target must be valid UTF-8, and the delta is, too:
// it can stand in a JSON string.
func Delta(base, target []byte, text bool) []byte {
	// 16 bytes are what a delta costs at least: length, one copy, checksum.
	if len(base) == 0 || len(target) <= 16 || len(base) > MaxSize || len(target) > MaxSize {
		return nil
	}
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.base, e.target, e.text = base, target, text
	e.encode()
	e.base, e.target = nil, nil
	if len(e.out) >= len(target) {
		return nil
	}
	return bytes.Clone(e.out)
}

// encoder is the memory of one encoding; encoders keeps them.
type encoder struct {
	base, target []byte
	text         bool
	out          []byte
	done         int      // target[:done] is in out
	table        []uint32 // hash of a block to its position in base + 1
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

func (e *encoder) encode() {
	base, target := e.base, e.target
	e.out, e.done = e.out[:0], 0
	e.out = append(appendInt(e.out, uint32(len(target))), '\n')
	head := commonPrefix(base, target)
	tail := commonSuffix(base[head:], target[head:])
	e.take(0, 0, head)
	end := len(target) - tail
	if end-e.done >= minMiddle && len(base) >= blockSize {
		e.match(head, end)
	}
	e.take(len(base)-tail, end, tail)
	e.literal(len(target))
	e.out = append(appendInt(e.out, checksum(target)), ';')
}

// match finds copies for target[start:end]. A block is looked for where it would be
// if nothing but the last literal had changed, and then where the table says.
func (e *encoder) match(start, end int) {
	base, target := e.base, e.target
	table, shift := e.index()
	shifted := 0 // base position of the last copy less its target position
	misses := 0
	for at := start; at+blockSize <= end; {
		block := binary.LittleEndian.Uint64(target[at:])
		from := at + shifted
		if from < 0 || from+blockSize > len(base) || binary.LittleEndian.Uint64(base[from:]) != block {
			from = int(table[hash(block)>>shift]) - 1
			if from < 0 || binary.LittleEndian.Uint64(base[from:]) != block {
				at += 1 + misses>>5 // what is unlike the base for long is passed faster
				misses++
				continue
			}
		}
		n := blockSize + commonPrefix(base[from+blockSize:], target[at+blockSize:end])
		back := commonSuffix(base[:from], target[e.done:at])
		if !e.take(from-back, at-back, back+n) {
			at++
			continue
		}
		shifted, misses = from-at, 0
		at = e.done
	}
}

// index fills the table with the blocks of base, at a stride that fits them in.
func (e *encoder) index() (table []uint32, shift int) {
	base := e.base
	bitsOf := min(max(bits.Len(uint(len(base)/4)), 6), bits.Len(maxTable)-1)
	size := 1 << bitsOf
	if cap(e.table) < size {
		e.table = make([]uint32, size)
	}
	table = e.table[:size]
	clear(table)
	shift = 64 - bitsOf
	stride := max(len(base)/size, 2)
	for i := 0; i+blockSize <= len(base); i += stride {
		table[hash(binary.LittleEndian.Uint64(base[i:]))>>shift] = uint32(i + 1)
	}
	return table, shift
}

// hash spreads a block over the upper bits (Fibonacci hashing).
func hash(block uint64) uint64 { return block * 0x9E3779B97F4A7C15 }

// take writes what lies before target[at:at+n] and then that as a copy of base from
// from, or nothing when a copy does not pay.
func (e *encoder) take(from, at, n int) bool {
	if e.text {
		for ; n > 0 && !boundary(e.target, at); n-- {
			from, at = from+1, at+1
		}
		for n > 0 && !boundary(e.target, at+n) {
			n--
		}
	}
	if n <= intLen(n)+intLen(from)+4 { // "n@from,", and the header of a further literal
		return false
	}
	e.literal(at)
	e.out = append(appendInt(e.out, uint32(n)), '@')
	e.out = append(appendInt(e.out, uint32(from)), ',')
	e.done = at + n
	return true
}

// literal writes target up to end as it is.
func (e *encoder) literal(end int) {
	if end > e.done {
		e.out = append(appendInt(e.out, uint32(end-e.done)), ':')
		e.out = append(e.out, e.target[e.done:end]...)
		e.done = end
	}
}

// boundary reports whether no character of the UTF-8 text b goes across position i.
func boundary(b []byte, i int) bool { return i >= len(b) || b[i]&0xC0 != 0x80 }

func commonPrefix(a, b []byte) int {
	n, limit := 0, min(len(a), len(b))
	for ; n+8 <= limit; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < limit && a[n] == b[n] {
		n++
	}
	return n
}

func commonSuffix(a, b []byte) int {
	limit := min(len(a), len(b))
	a, b = a[len(a)-limit:], b[len(b)-limit:]
	n := 0
	for ; n+8 <= limit; n += 8 {
		if x := binary.LittleEndian.Uint64(a[limit-n-8:]) ^ binary.LittleEndian.Uint64(b[limit-n-8:]); x != 0 {
			return n + bits.LeadingZeros64(x)/8
		}
	}
	for n < limit && a[limit-n-1] == b[limit-n-1] {
		n++
	}
	return n
}

// checksum is the sum of target's big-endian 32-bit words, zeros behind its end.
func checksum(b []byte) uint32 {
	var sum uint32
	for ; len(b) >= 8; b = b[8:] {
		v := binary.BigEndian.Uint64(b)
		sum += uint32(v>>32) + uint32(v)
	}
	var rest [8]byte
	copy(rest[:], b)
	v := binary.BigEndian.Uint64(rest[:])
	return sum + uint32(v>>32) + uint32(v)
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"

// appendInt appends v in base 64, most significant digit first.
func appendInt(b []byte, v uint32) []byte {
	for i := intLen(int(v)) - 1; i >= 0; i-- {
		b = append(b, digits[v>>(6*i)&63])
	}
	return b
}

func intLen(v int) int { return max((bits.Len(uint(v))+5)/6, 1) }
