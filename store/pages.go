package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
)

// What follows reads bbolt's pages without bbolt, which trusts them: on a damaged file it may read behind the end, which
// kills the process, or follow a page that leads back to itself for ever. The layout has been the same since boltdb 1.0,
// in native byte order.
//
// A page begins with its number (64 bits), flags, how many elements it has (16 bits each), and how many further pages it
// fills (32 bits). An element of a branch is the place and size of its key (32 bits each) and the page below it; one of a
// leaf is flags, and the place and the sizes of key and value (32 bits each). Places count from the element. The value of
// an element that is a bucket is the number of its root page (64 bits) and 64 bits more; if that is 0, a page follows.
const (
	pageHeader = 16
	metaLength = 64
	metaMagic  = 0xED0CDAED

	minPage, maxPage = 1 << 10, 1 << 24

	pageBranch, pageLeaf = 0x01, 0x02

	elementSize  = 16
	bucketFlag   = 0x01
	bucketHeader = 16
)

// meta is what one of a file's two meta pages says.
type meta struct {
	pageSize int64
	root     uint64 // page of the root bucket
	pages    uint64 // of the file, used or not
	txid     uint64
}

// readMeta returns the valid meta page with the higher transaction. After the page header it has magic, version, page size
// and flags (32 bits each), root bucket (2×64), freelist, number of pages, transaction, and an FNV-1a checksum of all that
// (64 bits each).
func readMeta(r io.ReaderAt, size int64) (meta, error) {
	var newest meta
	read := func(at int64) (pageSize int64) {
		b := make([]byte, pageHeader+metaLength)
		if _, err := r.ReadAt(b, at); err != nil {
			return 0
		}
		m, order := b[pageHeader:], binary.NativeEndian
		sum := fnv.New64a()
		sum.Write(m[:metaLength-8])
		if order.Uint32(m) != metaMagic || sum.Sum64() != order.Uint64(m[metaLength-8:]) {
			return 0
		}
		found := meta{int64(order.Uint32(m[8:])), order.Uint64(m[16:]), order.Uint64(m[40:]), order.Uint64(m[48:])}
		if found.pageSize < minPage || found.pageSize > maxPage || found.pages > 1<<40 {
			return 0
		}
		if newest.pageSize == 0 || found.txid > newest.txid {
			newest = found
		}
		return found.pageSize
	}
	if pageSize := read(0); pageSize != 0 {
		read(pageSize)
	} else {
		for at := int64(minPage); at <= maxPage && at < size; at *= 2 {
			if read(at) != 0 {
				break
			}
		}
	}
	if newest.pageSize == 0 {
		return meta{}, ErrCorrupt
	}
	return newest, nil
}

// checkPages walks through all pages that are in use, so that damage shows now and not in the middle of a later write. The
// file must be locked and at least as long as it says: see checkSize.
func checkPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := readMeta(f, info.Size())
	if err != nil {
		return err
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(m.pageSize*int64(m.pages)), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	w := pageWalk{data: data, pageSize: uint64(m.pageSize), seen: make([]bool, m.pages)}
	err = guard(func() error { return w.bucket(m.root) })
	if merr := syscall.Munmap(data); err == nil {
		err = merr
	}
	return err
}

// pageWalk is a walk through a file's pages.
type pageWalk struct {
	data     []byte // the file
	pageSize uint64
	seen     []bool // pages
}

// bucket walks through the tree below a bucket's root page.
func (w *pageWalk) bucket(root uint64) error {
	var last []byte
	return w.tree(root, &last)
}

// tree walks through a page and what is below it; last is the key before it.
func (w *pageWalk) tree(number uint64, last *[]byte) error {
	page, err := w.page(number)
	if err != nil {
		return err
	}
	order := binary.NativeEndian
	switch flags := order.Uint16(page[8:]); flags {
	case pageLeaf:
		return w.leaf(page, last)
	case pageBranch:
		return elements(page, func(element []byte) error {
			at, size := uint64(order.Uint32(element)), uint64(order.Uint32(element[4:]))
			if at+size > uint64(len(element)) {
				return fmt.Errorf("%w: page %d has a key outside of it", ErrCorrupt, number)
			}
			return w.tree(order.Uint64(element[8:]), last)
		})
	default:
		return fmt.Errorf("%w: page %d is of kind %#x", ErrCorrupt, number, flags)
	}
}

// page returns a page with those that it fills besides. Everything has its own.
func (w *pageWalk) page(number uint64) ([]byte, error) {
	const metaPages = 2
	pages := uint64(len(w.seen))
	if number < metaPages || number >= pages {
		return nil, fmt.Errorf("%w: there is no page %d", ErrCorrupt, number)
	}
	page := w.data[number*w.pageSize:]
	more := uint64(binary.NativeEndian.Uint32(page[12:]))
	if binary.NativeEndian.Uint64(page) != number || number+more >= pages {
		return nil, fmt.Errorf("%w: page %d is another one", ErrCorrupt, number)
	}
	for n := number; n <= number+more; n++ {
		if w.seen[n] {
			return nil, fmt.Errorf("%w: page %d is used twice", ErrCorrupt, n)
		}
		w.seen[n] = true
	}
	return page[:(1+more)*w.pageSize], nil
}

// elements calls each with every element of a page and what is behind it.
func elements(page []byte, each func(element []byte) error) error {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeader+count*elementSize > len(page) {
		return fmt.Errorf("%w: a page has %d elements", ErrCorrupt, count)
	}
	for i := range count {
		if err := each(page[pageHeader+i*elementSize:]); err != nil {
			return err
		}
	}
	return nil
}

// leaf walks through a leaf and the buckets in it.
func (w *pageWalk) leaf(page []byte, last *[]byte) error {
	order := binary.NativeEndian
	return elements(page, func(element []byte) error {
		at, keySize, valueSize := uint64(order.Uint32(element[4:])), uint64(order.Uint32(element[8:])), uint64(order.Uint32(element[12:]))
		if at+keySize+valueSize > uint64(len(element)) {
			return fmt.Errorf("%w: a value is outside of its page", ErrCorrupt)
		}
		key := element[at : at+keySize]
		if *last != nil && bytes.Compare(key, *last) <= 0 {
			return fmt.Errorf("%w: keys out of order", ErrCorrupt)
		}
		*last = key
		if order.Uint32(element)&bucketFlag == 0 {
			return nil
		}
		value := element[at+keySize:][:valueSize]
		if len(value) < bucketHeader {
			return fmt.Errorf("%w: a bucket is cut short", ErrCorrupt)
		}
		if root := order.Uint64(value); root != 0 {
			return w.bucket(root)
		}
		inside := value[bucketHeader:]
		if len(inside) < pageHeader || order.Uint16(inside[8:]) != pageLeaf {
			return fmt.Errorf("%w: a bucket is cut short", ErrCorrupt)
		}
		var first []byte
		return w.leaf(inside, &first)
	})
}
