package edge

import (
	"testing"

	"github.com/headrace/headrace/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
