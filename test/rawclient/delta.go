package rawclient

import (
	"encoding/json"
	"fmt"

	fdelta "github.com/shadowspore/fossil-delta"
)

// Deltas decodes what a subscription with deltas gets. It holds no more than what came
// in this subscription, so it fails where a server relies on what came before.
type Deltas struct {
	base map[string][]byte // of each key; "" in channels that are no maps
	// Count is how many deltas came.
	Count int
}

// Reset forgets everything: a subscription begins.
func (d *Deltas) Reset() { d.base = make(map[string][]byte) }

// Decode makes the data of p what was published.
func (d *Deltas) Decode(p *Publication) error {
	var text string
	if err := json.Unmarshal(p.Data, &text); err != nil {
		return fmt.Errorf("data %s is no string: %w", p.Data, err)
	}
	data := []byte(text)
	if p.Delta {
		base, known := d.base[p.Key]
		if !known {
			return fmt.Errorf("a delta of %q to nothing", p.Key)
		}
		var err error
		if data, err = fdelta.Apply(base, data); err != nil {
			return fmt.Errorf("delta %s to %s: %w", p.Data, base, err)
		}
		d.Count++
	}
	if !json.Valid(data) {
		return fmt.Errorf("data %s is no JSON", data)
	}
	p.Data = data
	d.base[p.Key] = data
	if p.Removed {
		delete(d.base, p.Key)
	}
	return nil
}
