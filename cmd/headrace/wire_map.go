package main

import (
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/router"
)

// mapOptions translates the map block of a namespace; nil when it is no map.
func mapOptions(m *config.Map) *router.MapOptions {
	if m.Mode == "" {
		return nil
	}
	return &router.MapOptions{
		Mode:                  router.MapMode(m.Mode),
		KeyTTL:                m.KeyTTL,
		KeyHistory:            m.KeyHistory,
		TombstoneTTL:          m.TombstoneTTL,
		Conflict:              router.Strategy(m.Conflict),
		ConflictMethod:        m.ConflictMethod,
		MaxValueBytes:         m.MaxValueBytes,
		MaxKeys:               m.MaxKeys,
		ClientKey:             router.ClientKey(m.ClientKey),
		RemoveOnUnsubscribe:   m.RemoveOnLeave,
		AllowRemove:           m.AllowRemove,
		AllowRemoveSubscriber: m.AllowRemoveSubscriber,
	}
}
